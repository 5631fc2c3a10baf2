//! Jobs side by side, and what is sent when all of them have ended.

mod gathered;
mod plan;
mod sent;

use std::time::Duration;

use crate::broker::Broker;
use crate::defaults::Defaults;
use crate::outgoing::SendError;
use crate::pipeline::{Pipeline, random_id};
pub(crate) use gathered::{gather, gathered};
use plan::{Plan, batches};
pub use sent::SentGroup;

/// Jobs, or pipelines, that are done side by side.
///
/// Each member counts once however often it is delivered: its arrival at the group's barrier is in the
/// record that settles it. A member that fails for good arrives too, as failed. What stands in
/// [`Group::on_complete`] is published in the record of the last arrival, exactly once.
///
/// A completion made by `after` gets the results of the members as its first argument, in their order:
/// a `Vec<Result<T, ReportedFailure>>`. Together they may have some 200 KiB; what is larger is better
/// kept elsewhere. One made by `with` has all arguments of its own.
///
/// ```no_run
/// use qbroker_worker::{BoxError, Broker, Group, ReportedFailure, actor};
///
/// #[actor]
/// async fn count_words(url: String) -> Result<u64, BoxError> {
///     Ok(url.len() as u64)
/// }
///
/// #[actor]
/// async fn sum_up(counts: Vec<Result<u64, ReportedFailure>>, title: String) {
///     let sum: u64 = counts.iter().flatten().sum();
///     println!("{title}: {sum}");
/// }
///
/// # async fn example(broker: Broker) -> Result<(), BoxError> {
/// let pages = ["https://example.org/a", "https://example.org/b"];
/// let group = Group::new(pages.map(count_words::with)).on_complete(sum_up::after("all pages"));
/// group.send(&broker).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a group does nothing until it is sent"]
pub struct Group {
    id: Option<String>,
    members: Vec<Member>,
    on_complete: Vec<Pipeline>,
    on_expire: Vec<Pipeline>,
    ttl: Duration,
}

#[derive(Debug)]
enum Member {
    Pipeline(Pipeline),
    Group(Group),
}

impl Member {
    fn change(self, change: &impl Fn(Pipeline) -> Pipeline) -> Self {
        match self {
            Self::Pipeline(pipeline) => Self::Pipeline(change(pipeline)),
            Self::Group(group) => Self::Group(group.change(change)),
        }
    }

    fn filled(self, defaults: &Defaults) -> Self {
        match self {
            Self::Pipeline(mut pipeline) => {
                pipeline.fill(defaults);
                Self::Pipeline(pipeline)
            }
            Self::Group(group) => Self::Group(group.filled(defaults)),
        }
    }
}

/// How long a group may take unless it says otherwise: Dramatiq's.
const TTL: Duration = Duration::from_hours(24);

impl Group {
    /// A group of these members, 1 to 100,000.
    pub fn new<M: Into<Pipeline>>(members: impl IntoIterator<Item = M>) -> Self {
        let members = members.into_iter().map(|member| Member::Pipeline(member.into())).collect();
        let (on_complete, on_expire) = (Vec::new(), Vec::new());
        Self { id: None, members, on_complete, on_expire, ttl: TTL }
    }

    /// Adds another group behind the members that it has. Where that one has no completion, its members
    /// are members of this one. Where it has, that is: this group waits for the other's completion, and
    /// gets its results.
    ///
    /// ```
    /// use qbroker_worker::{Group, ReportedFailure, actor};
    ///
    /// #[actor]
    /// async fn count_words(page: String) {}
    ///
    /// #[actor]
    /// async fn sum_up(counts: Vec<Result<u64, ReportedFailure>>, title: String) {}
    ///
    /// let chapter = |title: &'static str, pages: [&'static str; 2]| {
    ///     Group::new(pages.map(count_words::with)).on_complete(sum_up::after(title))
    /// };
    /// let book = Group::new([count_words::with("preface")])
    ///     .nest(chapter("one", ["1", "2"]))
    ///     .nest(chapter("two", ["3", "4"]))
    ///     .on_complete(sum_up::after("the book"));
    /// # drop(book);
    /// ```
    pub fn nest(mut self, group: Self) -> Self {
        self.members.push(Member::Group(group));
        self
    }

    /// Sent when all members have ended, done or failed for good.
    pub fn on_complete(mut self, job: impl Into<Pipeline>) -> Self {
        self.on_complete.push(job.into());
        self
    }

    /// Sent when they have not by the group's time. A member that the broker gives up by itself (its
    /// workers crash, its own time is over, somebody deletes it) never ends.
    pub fn on_expire(mut self, job: impl Into<Pipeline>) -> Self {
        self.on_expire.push(job.into());
        self
    }

    /// How long the members may take together, at most 365 days. Default: 24 h.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// A name of its own, at most 40 characters of `[A-Za-z0-9_-]`, from which its messages have their
    /// ids. One that could not be sent to the end is sent again under its name: inside the queues' dedup
    /// window no member is sent twice.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The results of all members are kept for this long.
    pub fn store_results(self, ttl: Duration) -> Self {
        self.change(&|member| member.store_results(ttl))
    }

    /// Its members begin no earlier than this long after the broker has them.
    pub fn delay(self, delay: Duration) -> Self {
        self.change(&|member| member.delay(delay))
    }

    /// What its jobs do not say is as these say.
    fn filled(mut self, defaults: &Defaults) -> Self {
        for pipeline in self.on_complete.iter_mut().chain(&mut self.on_expire) {
            pipeline.fill(defaults);
        }
        self.members = self.members.into_iter().map(|member| member.filled(defaults)).collect();
        self
    }

    fn change(mut self, change: &impl Fn(Pipeline) -> Pipeline) -> Self {
        self.members = self.members.into_iter().map(|member| member.change(change)).collect();
        self
    }

    /// Sends its members, a thousand at a time; all are on the broker's disk when this returns. Where it
    /// fails, some may be: send it again under the same [`Group::id`].
    ///
    /// # Errors
    ///
    /// It has no members, one cannot be written, or the broker does not take it.
    pub async fn send(mut self, broker: &Broker) -> Result<SentGroup, SendError> {
        // Under a name of its own it may have been sent before.
        let is_new = self.id.is_none();
        let id = self.id.take().unwrap_or_else(random_id);
        let mut plan = Plan::default();
        let sent = plan.add(self.filled(&broker.defaults), &id)?;
        // All of them are there before the first member is.
        for barrier in plan.barriers {
            barrier.create(broker).await?;
        }
        let (mut position, mut duplicate) = (0, None);
        for batch in batches(plan.jobs) {
            let actors: Vec<String> = batch.iter().map(|job| job.actor().to_owned()).collect();
            let receipt = broker.send_all(batch).await?;
            if let Some(&first) = receipt.duplicates().first().filter(|_| is_new) {
                let actor = actors[first].clone();
                let position = position + first;
                duplicate.get_or_insert(SendError::DuplicateMember { actor, position });
            }
            position += actors.len();
        }
        duplicate.map_or(Ok(sent), Err)
    }
}
