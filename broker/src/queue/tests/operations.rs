//! The commands of scripts that are about many messages: operations and their steps.

use qbroker_storage::{Body, Lsn};

use super::args::{Args, number};
use super::queues::state;
use super::script::Script;
use super::show;
use super::stage::{Stage, StageIndex};
use crate::queue::filter::{Filter, Is, Names, Term, Told};
use crate::queue::index::StateSet;
use crate::queue::record::{
    OperationKind, OperationStarted, OperationState, OperationStepped, Record,
};
use crate::queue::{Candidate, OperationStep, Pace, StartOperation, StepBounds, Work};

/// What an operation finds next, as the engine would find it: up to so many messages.
pub(super) fn look<I: StageIndex>(stage: &mut Stage<I>, id: Lsn, messages: usize) -> OperationStep {
    let operation = match stage.core.operation(id) {
        Some(operation) if operation.is_running() => operation.clone(),
        _ => return step_of(id, Vec::new()),
    };
    let filter = &operation.started.filter;
    let bounds = StepBounds { messages, bytes: u64::MAX };
    let looked = loop {
        match stage.core.candidates(operation.queue(), filter, operation.after(), bounds) {
            Ok(looked) => break looked,
            Err(missing) => stage.load(missing),
        }
    };
    let told = |candidate: Candidate| {
        let told = tell(stage, &candidate);
        filter.holds(candidate.birth, &told).then_some((candidate, Some(told)))
    };
    let found = looked.found.into_iter().filter_map(told).collect();
    let (after, is_end, examined) = (looked.after, looked.is_end, looked.examined);
    OperationStep { operation: id, found, after, is_end, examined }
}

fn step_of(operation: Lsn, found: Vec<(Candidate, Option<Told>)>) -> OperationStep {
    OperationStep { operation, found, after: None, is_end: true, examined: 0 }
}

/// What the records of a message tell.
fn tell<I>(stage: &Stage<I>, candidate: &Candidate) -> Told {
    let read = |lsn: Lsn| -> Option<(&Record, &Body)> {
        stage.log.get(&lsn).map(|(record, body)| (record, body))
    };
    let message = candidate.message;
    let content = message.content(candidate.birth);
    Told::read(read(content), read(message.last_failure), read(message.dead_letter))
}

/// `move mail.dead to=other reset states=ready,parked births=a,5 contains=x source=mail limit=2 rate=500`;
/// without `to` back to where they died.
pub(super) fn move_messages<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let reset_attempts = args.flag("reset");
    let destination = args.key("to").unwrap_or_default().to_owned();
    start(script, args, Work::Move { destination, reset_attempts });
}

/// `erase mail states=ready limit=2`
pub(super) fn erase<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    start(script, args, Work::Delete);
}

fn start<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>, work: Work) {
    let filter = filter(script, args);
    let (rate, limit) = (args.number("rate").unwrap_or(0), args.number("limit").unwrap_or(0));
    let start = StartOperation { queue: args.word().to_owned(), filter, work, rate, limit };
    let outcome = script.stage.turn(|core, now, out| core.start_operation(&start, now, out));
    script.tell(outcome, |id| vec![format!("operation {id}")]);
}

fn filter<I>(script: &Script<I>, args: &mut Args<'_>) -> Filter {
    let mut terms = Vec::new();
    if let Some(states) = args.key("states") {
        let states = states.split(',').map(state).fold(StateSet(0), StateSet::with);
        terms.push(Is::In(states.0));
    }
    if let Some(births) = args.key("births") {
        let birth =
            |name: &str| script.names.get(name).map_or_else(|| number(name), |birth| birth.0);
        let mut births: Vec<u64> = births.split(',').map(birth).collect();
        births.sort_unstable();
        terms.push(Is::Named(Names { ids: Vec::new(), births }));
    }
    if let Some(id) = args.key("id") {
        terms.push(Is::Named(Names { ids: vec![id.to_owned()], births: Vec::new() }));
    }
    if let Some(source) = args.key("source") {
        terms.push(Is::Source(source.to_owned()));
    }
    if let Some(text) = args.key("contains") {
        terms.push(Is::Contains(text.as_bytes().to_vec().into()));
    }
    Filter { terms: terms.into_iter().map(|is| Term { is: Some(is) }).collect() }
}

/// `o2` is the second one that was begun; a number is the id itself.
fn named<I>(script: &Script<I>, text: &str) -> Lsn {
    let Some(place) = text.strip_prefix('o') else { return Lsn(number(text)) };
    let begun =
        |(_, (record, _)): &(&Lsn, &(Record, Body))| matches!(record, Record::OperationStarted(_));
    let nth = script.stage.log.iter().filter(begun).nth(number::<usize>(place) - 1);
    *nth.expect("it was begun").0
}

/// `step o1 messages=2`: one step; without a number of messages all that are left to do.
pub(super) fn step<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let id = named(script, args.word());
    let messages = args.number("messages");
    loop {
        let step = look(&mut script.stage, id, messages.unwrap_or(100));
        let mut pace = Pace::Ended;
        let outcome = script.stage.turn(|core, now, out| {
            pace = core.step_operation(&step, now, out)?;
            Ok(())
        });
        script.tell(outcome, |()| Vec::new());
        if messages.is_some() || !matches!(pace, Pace::Goes { .. }) {
            if pace == Pace::Waits {
                script.said.push("= it waits".to_owned());
            }
            return;
        }
    }
}

pub(super) fn cancel<I: StageIndex>(script: &mut Script<I>, args: &mut Args<'_>) {
    let id = named(script, args.word());
    let outcome = script.stage.turn(|core, now, out| core.cancel_operation(id, now, out));
    script.tell(outcome, |()| Vec::new());
}

/// Every operation, the latest first.
pub(super) fn show_all<I: StageIndex>(script: &mut Script<I>) {
    for (_, operation) in script.stage.core.operations() {
        script.said.push(format!("= {}", progress(&operation.progress)));
    }
}

pub(super) fn started(it: &OperationStarted) -> String {
    let what = match it.kind() {
        OperationKind::Move if it.destination.is_empty() => "moves back".to_owned(),
        OperationKind::Move => format!("moves to {}", it.destination),
        _ => "deletes".to_owned(),
    };
    let mut text = format!("operation {what} of q{}, {} messages", it.queue, it.messages);
    for (name, number) in [("rate", it.rate), ("limit", it.limit)] {
        if number != 0 {
            text += &format!(", {name} {number}");
        }
    }
    text
}

pub(super) fn progress(it: &OperationStepped) -> String {
    let mut text = format!("{}: looked at {}, done {}", it.operation, it.examined, it.done);
    for refused in &it.refused {
        text += &format!(", {} {}", refused.count, refused.reason);
    }
    if it.passes != 0 && it.end_ms == 0 {
        text += ", once more";
    }
    match it.state() {
        OperationState::Running => {}
        state => text += &format!(", {state:?} at {}", show::moment(it.end_ms)),
    }
    if !it.error.is_empty() {
        text += &format!(", {}: {}", it.error_reason, it.error);
    }
    text
}
