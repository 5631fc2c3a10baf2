//! The actors that a worker has, by name.

use std::collections::BTreeMap;
use std::fmt;

use qbroker_client::{Message, ScheduleSpec};

use crate::actor::{Actor, ActorOptions, Work};
use crate::context::Context;
use crate::defaults::Defaults;
use crate::encoding::Encoding;
use crate::failure::{JobError, Verdict};
use crate::outgoing::OutgoingJob;
use crate::{group, overrides};

/// An actor whose arguments' type is forgotten.
pub(crate) struct Registered {
    pub(crate) name: &'static str,
    pub(crate) options: ActorOptions,
    /// How its jobs are treated, where they do not say.
    pub(crate) treatment: Defaults,
    /// The job that its schedule sends.
    pub(crate) scheduled: Option<ScheduleSpec>,
    start: Box<Start>,
}

type Start = dyn Fn(Context, &Message) -> Result<Work, JobError> + Send + Sync;

impl Registered {
    fn new<A: Actor>(actor: A, defaults: &Defaults) -> Self {
        let options = actor.options();
        let scheduled = options.schedule.clone().map(|cron| {
            let mut job = OutgoingJob::without_arguments(&actor);
            job.fill(defaults);
            let spec = job.schedule(A::NAME, cron).expect("nothing can be written");
            spec.time_zone(options.time_zone.clone())
                .catch_up(options.catch_up)
                .jitter(options.jitter)
                .skip_if_unfinished(options.skip_if_unfinished)
        });
        let start = move |context: Context, message: &Message| {
            let arguments = decode::<A>(message)?;
            Ok(actor.work(context, arguments))
        };
        let treatment = defaults.of_actor(&options);
        Self { name: A::NAME, options, treatment, scheduled, start: Box::new(start) }
    }

    /// The work that the message asks for.
    ///
    /// # Errors
    ///
    /// It cannot be decoded.
    pub(crate) fn start(&self, context: Context, message: &Message) -> Result<Work, JobError> {
        (self.start)(context, message)
    }
}

fn decode<A: Actor>(message: &Message) -> Result<A::Args, JobError> {
    let undecodable = |why: String| JobError::of_kind("Undecodable", why, Verdict::GiveUp);
    if let Some(arguments) = message.headers.get(overrides::ARGUMENTS) {
        let fills = message.headers.get(overrides::FILLS);
        let filled = group::gathered(arguments, fills, &message.payload);
        let decoded = filled.and_then(|arguments| A::Encoding::decode(arguments.as_bytes()));
        return decoded
            .map_err(|error| undecodable(format!("no arguments of {}: {error}", A::NAME)));
    }
    let (found, expected) = (message.content_type.as_str(), A::Encoding::CONTENT_TYPE);
    if !found.is_empty() && found != expected {
        return Err(undecodable(format!("{} reads {expected}, not {found}", A::NAME)));
    }
    let decoded = A::Encoding::decode(&message.payload);
    decoded.map_err(|error| undecodable(format!("no arguments of {}: {error}", A::NAME)))
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All actors of a worker.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    actors: BTreeMap<&'static str, Registered>,
    /// A name that was given twice.
    pub(crate) duplicate: Option<&'static str>,
}

impl Registry {
    pub(crate) fn add<A: Actor>(&mut self, actor: A, defaults: &Defaults) {
        if self.actors.insert(A::NAME, Registered::new(actor, defaults)).is_some() {
            self.duplicate = Some(A::NAME);
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Registered> {
        self.actors.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Registered> {
        self.actors.values()
    }

    /// The queues of the actors, each once.
    pub(crate) fn queues(&self) -> Vec<String> {
        let mut queues: Vec<String> =
            self.iter().map(|actor| actor.options.queue.to_string()).collect();
        queues.sort();
        queues.dedup();
        queues
    }
}
