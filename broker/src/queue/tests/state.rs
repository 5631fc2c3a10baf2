//! The commands of scripts that are about values, counters, permits and barriers.

use bytes::Bytes;
use prost::Message as _;
use qbroker_storage::Body;

use super::args::{Args, number};
use super::commands::{hash_of, message, token};
use super::script::Script;
use super::stage::StageIndex;
use super::{schedules, show};
use crate::queue::state::record::{Change, Member, Results, StateChanged, Template};
use crate::queue::state::{
    AcquirePermit, AddToCounter, Arrive, BarrierView, ChangeCounter, CreateBarrier, Holder, Key,
    Kind, PermitId, StoreValue,
};

/// `put k v ttl=5s absent`
pub(super) fn put<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let if_absent = args.flag("absent");
    let key = args.word().into();
    let store = StoreValue { key, value: value(args.word()), ttl_ms: args.time("ttl"), if_absent };
    let outcome = script.stage.turn(|core, now, out| core.store_value(&store, now, out));
    script.tell(outcome, |stored| vec![if stored { "stored" } else { "was there" }.to_owned()]);
}

pub(super) fn value(text: &str) -> Body {
    Body::new(Bytes::new(), Bytes::copy_from_slice(text.as_bytes()))
}

/// `forget k`
pub(super) fn forget<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let key = args.word();
    let outcome = script.stage.turn(|core, now, out| core.delete_value(key, now, out));
    script.tell(outcome, |deleted| vec![if deleted { "deleted" } else { "not there" }.to_owned()]);
}

/// `look value k`, `look counter k`, `look barrier k`, `look all`
pub(super) fn look<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let (core, now) = (&script.stage.core, script.stage.now);
    let told = match args.word() {
        "all" => Some(format!("{:?}", core.state_figures())),
        "value" => core.value_at(args.word(), now).map(|(lsn, size)| format!("{size} B in {lsn}")),
        "counter" => core.counter(args.word(), now).map(|value| value.to_string()),
        "barrier" => core.barrier(args.word(), now).map(view),
        kind => panic!("{kind} is nothing to look at"),
    };
    script.said.push(format!("= {}", told.unwrap_or_else(|| "nothing".to_owned())));
}

fn kind(word: &str) -> Kind {
    match word {
        "value" => Kind::Value,
        "counter" => Kind::Counter,
        "permit" => Kind::Permit,
        _ => Kind::Barrier,
    }
}

/// `watch value k as=who`
pub(super) fn watch<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let who = args.key("as").unwrap_or_default().to_owned();
    let waiter = script.stage.core.watch_state(kind(args.word()), &[args.word().into()]);
    script.waiters.insert(who, waiter);
}

/// `leave permit k who`
pub(super) fn leave<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let (kind, key) = (kind(args.word()), args.word().into());
    let waiter = script.waiters.remove(args.word()).expect("somebody who waits");
    script.stage.core.unwatch_state(kind, &[key], waiter);
}

/// `add k 5 initial=1 min=0 max=9 with=other,third ttl=5s absent request=r`
pub(super) fn add<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let if_absent = args.flag("absent");
    let others = args.key("with").map_or_else(Vec::new, |keys| keys.split(',').collect());
    let add = AddToCounter {
        key: args.word().into(),
        amount: number(args.word()),
        initial: args.number("initial").unwrap_or_default(),
        if_absent,
        minimum: args.number("min"),
        maximum: args.number("max"),
        sum_with: others.into_iter().map(Key::from).collect(),
        ttl_ms: args.time("ttl"),
    };
    let request_id = args.key("request").unwrap_or_default().to_owned();
    let change = ChangeCounter { add, request_id };
    let outcome = script.stage.turn(|core, now, out| core.change_counter(&change, now, out));
    script.tell(outcome, |changed| {
        let what = if changed.applied { "now" } else { "refused at" };
        vec![format!("{what} {}", changed.value)]
    });
}

/// `acquire k limit=1 ttl=1m lease=a session=s request=r as=who`
pub(super) fn acquire<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let holder = match (args.key("lease"), args.key("session")) {
        (Some(lease), _) => Holder::Lease(token(script, lease)),
        (None, Some(session)) => Holder::Session(session.to_owned()),
        (None, None) => Holder::Nobody,
    };
    let acquire = AcquirePermit {
        key: args.word().into(),
        limit: args.number("limit").unwrap_or(1),
        ttl_ms: args.time("ttl").unwrap_or(60_000),
        holder,
        request_id: args.key("request").unwrap_or_default().to_owned(),
    };
    let waiter = args.key("as").map(|who| script.waiters[who]);
    let outcome =
        script.stage.turn(|core, now, out| core.acquire_permit(&acquire, waiter, now, out));
    script.tell(outcome, |id| vec![id.map_or_else(|| "none".to_owned(), |id| id.to_string())]);
}

/// `give-back p.1.3`
pub(super) fn give_back<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let id = PermitId::parse(args.word()).expect("a permit");
    let outcome = script.stage.turn(|core, _, out| core.release_permit(id, out));
    script.tell(outcome, |given| vec![if given { "given back" } else { "not held" }.to_owned()]);
}

/// `barrier k 3 ttl=1m complete=QUEUE/a expire=QUEUE/b collect`
pub(super) fn barrier<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let messages = |pairs: Vec<(&str, &str)>| {
        let each = pairs.into_iter().map(|(_, text)| text.split_once('/').expect("a message"));
        each.map(|(queue, text)| message(queue, text)).collect()
    };
    let create = CreateBarrier {
        collect: args.flag("collect"),
        key: args.word().into(),
        parties: number(args.word()),
        ttl_ms: args.time("ttl").unwrap_or(60_000),
        on_complete: messages(args.keys_with("complete")),
        on_expire: messages(args.keys_with("expire")),
    };
    let outcome = script.stage.turn(|core, now, out| core.create_barrier(&create, now, out));
    script.tell(outcome, |created| vec![if created { "created" } else { "was there" }.to_owned()]);
}

/// `arrive k member value=v failed`
pub(super) fn arrive<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let failed = args.flag("failed");
    let value = args.key("value").unwrap_or_default();
    let arrive = member(args.word().into(), args.word(), value, failed);
    let outcome = script.stage.turn(|core, now, out| core.arrive(&arrive, now, out));
    script.tell(outcome, |arrived| {
        let view = arrived.barrier.map_or_else(|| "unknown".to_owned(), view);
        vec![if arrived.last { format!("{view}, the last") } else { view }]
    });
}

pub(super) fn member(key: Key, member_id: &str, value: &str, failed: bool) -> Arrive {
    Arrive {
        key,
        member_id: member_id.to_owned(),
        member_hash: hash_of(member_id),
        value: Bytes::copy_from_slice(value.as_bytes()),
        failed,
    }
}

fn view(view: BarrierView) -> String {
    let BarrierView { parties, arrived, failed, state } = view;
    format!("{arrived} of {parties}, {failed} failed, {state:?}")
}

pub(super) fn change(changed: &StateChanged, body: &Body) -> String {
    match changed.change.as_ref().expect("it is known") {
        Change::ValueStored(it) => {
            let end = it.end.map_or_else(String::new, show::due);
            let value = body.parts().concat();
            format!("value {} is {}{end}", it.key, String::from_utf8_lossy(&value))
        }
        Change::CounterSet(it) => {
            let end = it.end.map_or_else(String::new, show::due);
            let request = match it.request_end {
                Some(end) => format!(", request {}{}", it.request_id, show::due(end)),
                None => String::new(),
            };
            format!("counter {} is {}{end}{request}", it.key, it.value)
        }
        Change::Removed(it) => {
            let named = [
                ("values", it.values.join(" ")),
                ("counters", it.counters.join(" ")),
                ("requests", it.answers.join(" ")),
                ("permits", show_permits(&it.permits)),
                ("barriers", it.barriers.join(" ")),
                ("schedules", it.schedules.join(" ")),
            ];
            let named = named.iter().filter(|(_, names)| !names.is_empty());
            let named: Vec<_> = named.map(|(kind, names)| format!("{kind} {names}")).collect();
            format!("removed {}", named.join(", "))
        }
        Change::PermitTaken(it) => {
            let holder = match (it.birth, it.session) {
                (0, 0) => String::new(),
                (0, session) => format!(", with session {session}"),
                (birth, _) => format!(", with lease {birth}@{}", it.grant),
            };
            format!("permit of {}{}{holder}", it.key, show::due(it.end))
        }
        Change::BarrierCreated(it) => {
            let queues = |templates: &[Template]| {
                templates.iter().map(|it| it.queue.clone()).collect::<Vec<_>>().join(" ")
            };
            let (complete, expire) = (queues(&it.on_complete), queues(&it.on_expire));
            let end = show::due(it.end);
            format!("barrier {} of {}{end}, then [{complete}], else [{expire}]", it.key, it.parties)
        }
        Change::Arrived(it) => {
            let failed = if it.failed { ", failed" } else { "" };
            let completes = if it.completes { ", complete" } else { "" };
            let brings = it.member.as_ref().map_or_else(String::new, brings);
            format!("arrived at {}{brings}{failed}{completes}", it.key)
        }
        Change::BarrierExpired(it) => format!("barrier {} expired{}", it.key, show::due(it.end)),
        Change::ScheduleStored(it) => schedules::stored(it),
        Change::ScheduleTicked(it) => schedules::ticked(it),
    }
}

fn brings(member: &Member) -> String {
    format!(", {} with {}", member.member_id, String::from_utf8_lossy(&member.value))
}

fn show_permits(permits: &[u64]) -> String {
    if permits.is_empty() { String::new() } else { show::numbers(permits) }
}

/// What a barrier's message tells of its members.
pub(super) fn results(payload: &[u8]) -> Option<String> {
    let results = Results::decode(payload).ok().filter(|results| !results.members.is_empty())?;
    let member = |it: &Member| {
        let failed = if it.failed { " failed" } else { "" };
        format!("{}={}{failed}", it.member_id, String::from_utf8_lossy(&it.value))
    };
    Some(results.members.iter().map(member).collect::<Vec<_>>().join(" "))
}
