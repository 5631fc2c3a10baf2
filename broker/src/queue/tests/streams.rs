//! The commands of scripts that are about consumers and pulls.

use super::args::{Args, number};
use super::commands::token;
use super::script::Script;
use super::show;
use super::stage::StageIndex;
use crate::queue::ids::ConsumerId;
use crate::queue::{OpenConsumer, Pull, PullId, Pulled, Selector, Window};

/// `high^0,low^1`: ranks; `a*3,b`: weights; `a<2,b`: windows.
fn selector(text: &str) -> Selector {
    let (text, window) = text.split_once('<').unwrap_or((text, ""));
    let (text, weight) = text.split_once('*').unwrap_or((text, "1"));
    let (queue, rank) = text.split_once('^').unwrap_or((text, "0"));
    let window = (!window.is_empty()).then(|| number(window));
    Selector { queue: queue.to_owned(), rank: number(rank), weight: number(weight), window }
}

fn selectors(args: &mut Args<'_>) -> Vec<Selector> {
    args.names().iter().map(|text| selector(text)).collect()
}

/// `consume session queue,queue window=10 bytes=1000 grace=15s lease=30s manual up-to=1m
/// previous=c.1.1 held=a,b@1 reset reports`
pub(super) fn consume<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let held: Vec<_> = args.key("held").map(|held| held.split(',').collect()).unwrap_or_default();
    let (manual_extend, reset_session) = (args.flag("manual"), args.flag("reset"));
    let reports_started = args.flag("reports");
    let open = OpenConsumer {
        session: args.word().to_owned(),
        queues: selectors(args),
        window: window_of(args, 1_000),
        lease_duration_ms: args.time("lease"),
        session_grace_ms: args.time("grace").unwrap_or(15_000),
        manual_extend,
        reports_started,
        extension_ms_max: args.time("up-to").unwrap_or(0),
        previous: args.key("previous").map(|text| ConsumerId::parse(text).unwrap()),
        held: held.into_iter().map(|text| token(script, text)).collect(),
        reset_session,
    };
    let outcome = script.stage.turn(|core, now, out| core.open_consumer(&open, now, out));
    script.tell(outcome, |opened| {
        let resumed = if opened.resumed { ", resumed" } else { "" };
        let mut lines = vec![format!("{}{resumed}", opened.consumer)];
        if !opened.lost.is_empty() {
            lines.push(format!("lost {}", show::tokens(&opened.lost)));
        }
        lines
    });
}

fn window_of(args: &mut Args<'_>, messages: u32) -> Window {
    Window {
        messages: args.number("window").unwrap_or(messages),
        bytes: args.number("bytes").unwrap_or(16 << 20),
    }
}

fn consumer(args: &mut Args<'_>) -> ConsumerId {
    let text = args.word();
    ConsumerId::parse(text).unwrap_or_else(|| panic!("{text} is no consumer"))
}

pub(super) fn window<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let (id, window) = (consumer(args), window_of(args, 0));
    let outcome = script.stage.turn(|core, _, _| {
        core.set_window(id, window);
        Ok(())
    });
    script.tell(outcome, |()| Vec::new());
}

pub(super) fn drain<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let id = consumer(args);
    let outcome = script.stage.turn(|core, _, _| {
        core.drain(id);
        Ok(())
    });
    script.tell(outcome, |()| Vec::new());
}

pub(super) fn disconnect<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let id = consumer(args);
    let outcome = script.stage.turn(|core, now, _| {
        core.disconnect(id, now);
        Ok(())
    });
    script.tell(outcome, |()| Vec::new());
}

pub(super) fn close<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let id = consumer(args);
    let outcome = script.stage.turn(|core, now, out| core.close_consumer(id, now, out));
    script.tell(outcome, |()| Vec::new());
}

/// `subscribe c.1.1 queue,queue`
pub(super) fn subscribe<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let (id, queues) = (consumer(args), selectors(args));
    let outcome = script.stage.turn(|core, now, out| core.subscribe(id, &queues, now, out));
    script.tell(outcome, |()| Vec::new());
}

/// `begin c.1.1 a b@1`
pub(super) fn begin<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let id = consumer(args);
    let tokens: Vec<_> = args.rest().into_iter().map(|text| token(script, text)).collect();
    let outcome = script.stage.turn(|core, _, out| core.report_started(id, &tokens, out));
    script.tell(outcome, |()| Vec::new());
}

/// `kick c.1.1 session`
pub(super) fn kick<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let (end_session, id) = (args.flag("session"), consumer(args));
    let outcome =
        script.stage.turn(|core, now, out| core.disconnect_consumer(id, end_session, now, out));
    script.tell(outcome, |()| Vec::new());
}

/// Every stream, with what it holds and takes.
pub(super) fn consumers<I: StageIndex>(script: &mut Script<I>) {
    let core = &script.stage.core;
    for (id, it) in core.consumers_after(ConsumerId::NONE) {
        let held = format!("{} of {} messages", it.outstanding_messages, it.window.messages);
        let (session, queues) = (core.session_name(it.session), it.queues.join(" "));
        let draining = if it.is_draining() { ", draining" } else { "" };
        script.said.push(format!("= {id} of {session}: {queues}, {held}{draining}"));
    }
}

/// `pull queue,queue max=10 session=s lease=30s id=p1`
pub(super) fn pull<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let pull = Pull {
        queues: selectors(args),
        messages_max: args.number("max").unwrap_or(1),
        lease_duration_ms: args.time("lease"),
        session: args.key("session").unwrap_or_default().to_owned(),
        request_id: args.key("id").unwrap_or_default().to_owned(),
    };
    let outcome = script.stage.turn(|core, now, out| core.pull(&pull, now, out));
    if let Ok(Pulled::Now(deliveries)) = &outcome.answer {
        deliveries.iter().for_each(|delivery| script.stage.note(delivery));
    }
    script.tell(outcome, |pulled| match pulled {
        Pulled::Now(deliveries) => deliveries.iter().map(show::delivery).collect(),
        Pulled::Waiting(pull) => vec![format!("pull {} waits", pull.0)],
    });
}

pub(super) fn cancel<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let pull = PullId(number(args.word()));
    let outcome = script.stage.turn(|core, now, _| Ok(core.cancel_pull(pull, now)));
    script.tell(outcome, |waited| {
        vec![if waited { "it waited" } else { "its answer is on its way" }.to_owned()]
    });
}

pub(super) fn undeliver<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let tokens: Vec<_> = args.rest().into_iter().map(|text| token(script, text)).collect();
    let outcome = script.stage.turn(|core, _, out| core.undeliver(tokens.iter().copied(), out));
    script.tell(outcome, |()| Vec::new());
}

pub(super) fn unreadable<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let tokens: Vec<_> = args.rest().into_iter().map(|text| token(script, text)).collect();
    let park = tokens.iter().copied();
    let outcome = script.stage.turn(|core, _, out| core.park_unreadable(park.clone(), out));
    script.tell(outcome, |parked| parked.into_iter().map(show::token).collect());
}
