//! Settlements come in, on a stream or by single calls, with all that is done together with them.

use std::collections::BTreeSet;

use bytes::Bytes;
use qbroker_proto::raw::SettleRequest;
use qbroker_proto::v1::MessagePatch;
use qbroker_storage::Lsn;

use super::attempts::{self, Past};
use super::convert::effects;
use super::convert::settlements::{self, Reading, Understood};
use super::fault::Fault;
use super::{Context, publish};
use crate::engine::Engine;
use crate::queue::ids::{ConsumerId, LeaseToken};
use crate::queue::index::Index as _;
use crate::queue::refused::Refused;
use crate::queue::state::StateChange;
use crate::queue::{Settle, Settlement};

/// What became of a call; it may be told once the log is durable up to the LSN.
pub(super) struct Settled {
    pub(super) lsn: Lsn,
    pub(super) failures: Vec<(LeaseToken, Refused)>,
    pub(super) invalid: Vec<Bytes>,
}

/// Does a call of settlements.
pub(super) async fn settle(
    context: &Context,
    request: SettleRequest,
    consumer: ConsumerId,
) -> Result<Settled, Fault> {
    let Context { engine, seal, hasher, limits, .. } = context;
    let reading = Reading { seal: *seal, hasher: *hasher, limits: *limits };
    let understood = settlements::settle(request, consumer, reading)?;
    let Understood { command, patches, refused: mut failures, invalid } = understood;
    let past = attempts::past(engine, &command.settlements)?;
    let is_plain = |settlement: &Settlement| settlement.effects.is_none();
    if past.is_empty() && command.settlements.iter().all(is_plain) {
        let (lsn, refused) = engine.turn(|core, now, out| core.settle(&command, now, out))?;
        failures.extend(refused?);
        return Ok(Settled { lsn, failures, invalid });
    }
    let (parts, twice) = parts(context, command, patches, past)?;
    failures.extend(twice.into_iter().map(|token| (token, Refused::TokenTwice)));
    let mut last = Lsn(0);
    for part in parts {
        let (lsn, refused) = settle_part(context, part).await?;
        last = lsn;
        failures.extend(refused);
    }
    Ok(Settled { lsn: last, failures, invalid })
}

/// A patch, with the place of its settlement and the record that has the message's content.
struct Wanted {
    place: usize,
    patch: MessagePatch,
    content: Lsn,
}

/// Settlements that are decided together, and what is read for them before.
struct Part {
    settle: Settle,
    patches: Vec<Wanted>,
    /// By the places of settlements that tell a failure.
    past: Vec<(usize, Past)>,
}

/// A call in parts, so that no more of the stored messages and failures is in memory at once than a
/// batch may have; and tokens that it names twice, which are settled once.
fn parts(
    context: &Context,
    command: Settle,
    patches: Vec<(usize, MessagePatch)>,
    past: Vec<(usize, Past)>,
) -> Result<(Vec<Part>, Vec<LeaseToken>), Fault> {
    let mut contents = contents(&context.engine, &command, &patches)?.into_iter();
    let mut patches = patches.into_iter().peekable();
    let mut past = past.into_iter().peekable();
    let Settle { consumer, number, answered_through, settlements } = command;
    let empty = || Part {
        settle: Settle { consumer, number, answered_through, settlements: Vec::new() },
        patches: Vec::new(),
        past: Vec::new(),
    };
    let mut parts = vec![empty()];
    let (mut seen, mut twice) = (BTreeSet::new(), Vec::new());
    let is_held = |token| context.engine.look(|core| core.is_held(token)).1;
    let mut bytes = 0;
    for (at, settlement) in settlements.into_iter().enumerate() {
        let patch = patches.next_if(|(place, _)| *place == at).map(|(_, patch)| patch);
        let content = patch.as_ref().and_then(|_| contents.next().expect("one for each patch"));
        let past = past.next_if(|(place, _)| *place == at).map(|(_, past)| past);
        if !seen.insert(settlement.token) && is_held(settlement.token) {
            twice.push(settlement.token);
            continue;
        }
        let carried = past.map_or(0, |_| attempts::CARRIED_BYTES);
        let size = content.map_or(0, |(_, size)| size) + bytes_of(&settlement) + carried;
        if context.limits.bytes_max < bytes + size && 0 < bytes {
            parts.push(empty());
            bytes = 0;
        }
        bytes += size;
        let part = parts.last_mut().expect("there is one");
        let place = part.settle.settlements.len();
        // Whoever does not hold the message any more changes nothing of it.
        if let (Some(patch), Some((content, _))) = (patch, content) {
            part.patches.push(Wanted { place, patch, content });
        }
        part.past.extend(past.map(|past| (place, past)));
        part.settle.settlements.push(settlement);
    }
    Ok((parts, twice))
}

/// Of each message that is patched, the record with its content, and its size; of those alone whose
/// lease holds.
fn contents(
    engine: &Engine,
    command: &Settle,
    patches: &[(usize, MessagePatch)],
) -> Result<Vec<Option<(Lsn, usize)>>, Fault> {
    let token = |place: usize| command.settlements[place].token;
    let (_, contents) = engine.look_up(|core| {
        let content = |(place, _): &(usize, MessagePatch)| {
            let token = token(*place);
            if !core.is_held(token) {
                return Ok(None);
            }
            let message = core.index().message(token.birth)?;
            Ok(message.map(|message| (message.content(token.birth), message.size as usize)))
        };
        patches.iter().map(content).collect()
    })?;
    Ok(contents)
}

/// Does a part of a call: in one turn, once what it needs of the log is read.
async fn settle_part(
    context: &Context,
    part: Part,
) -> Result<(Lsn, Vec<(LeaseToken, Refused)>), Fault> {
    let engine = &context.engine;
    let Part { settle: mut part, patches, past } = part;
    attempts::carry(engine, &mut part.settlements, &past).await?;
    let stored = engine.read(patches.iter().map(|wanted| wanted.content).collect()).await?;
    let (mut failures, mut unfit) = (Vec::new(), Vec::new());
    for (wanted, stored) in patches.into_iter().zip(stored) {
        let Wanted { place, patch, .. } = wanted;
        let settlement = &mut part.settlements[place];
        let patched = stored.map_err(Fault::from).and_then(|it| effects::patched(patch, &it));
        let effects = settlement.effects.as_deref_mut().expect("it has a patch");
        match patched {
            Ok(patch) => effects.patch = Some(patch),
            Err(fault) => {
                unfit.push(place);
                failures.push((settlement.token, fault.into_refused()));
            }
        }
        let (size, limit) = (bytes_of(settlement), context.limits.bytes_max);
        if limit < size && unfit.last() != Some(&place) {
            let unit = "bytes in one settlement, with the message that it patches";
            let fault = Fault::BatchTooLarge { size, limit, unit };
            unfit.push(place);
            failures.push((settlement.token, fault.into_refused()));
        }
    }
    for place in unfit.into_iter().rev() {
        part.settlements.remove(place);
    }
    // Failures are not counted: what settles without effects never waits for what is published.
    let bytes = part.settlements.iter().map(bytes_of).sum();
    let permit = engine.reserve(bytes).await;
    let (lsn, refused) = engine.turn(|core, now, out| core.settle(&part, now, out))?;
    engine.release_when_durable(lsn, permit);
    failures.extend(refused?);
    Ok((lsn, failures))
}

/// What the log gets of a settlement's effects.
fn bytes_of(settlement: &Settlement) -> usize {
    let Some(effects) = &settlement.effects else { return 0 };
    let patch = effects.patch.as_ref().map_or(0, |patch| patch.body.len());
    let changes: usize = effects.changes.iter().map(StateChange::bytes).sum();
    publish::bytes(&effects.publish) + changes + patch
}

#[cfg(test)]
mod tests;
