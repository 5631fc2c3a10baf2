//! Jobs that the broker sends by itself, again and again.

use qbroker_client::{Error, Schedule, ScheduleSpec};

use crate::broker::Broker;
use crate::outgoing::{OutgoingJob, SendError};

impl OutgoingJob {
    /// A schedule of this job: the broker sends it at the times of a cron expression of five or six
    /// fields, or of `@every 30s`. For [`Worker::schedule`](crate::Worker::schedule), or
    /// [`Broker::schedule`].
    ///
    /// ```no_run
    /// use qbroker_worker::{Broker, SendError, Worker, actor};
    ///
    /// #[actor(queue = "reports")]
    /// async fn build_report(days: u32) {
    ///     println!("the last {days} days");
    /// }
    ///
    /// # fn example(broker: Broker) -> Result<Worker, SendError> {
    /// let nightly = build_report::with(1).schedule("nightly-report", "30 3 * * *")?;
    /// let worker = Worker::new(broker).register(build_report);
    /// let worker = worker.schedule(nightly.time_zone("Europe/Berlin"));
    /// # Ok(worker) }
    /// ```
    ///
    /// # Errors
    ///
    /// It cannot be encoded.
    pub fn schedule(
        mut self,
        name: impl Into<String>,
        cron: impl Into<String>,
    ) -> Result<ScheduleSpec, SendError> {
        Ok(ScheduleSpec::new(name, cron, self.take_draft()?.into_message()))
    }
}

impl Broker {
    /// Makes a schedule, or changes the one of its name; one that somebody has paused stays paused.
    ///
    /// # Errors
    ///
    /// The broker does not take it, or it is not known whether it has.
    pub async fn schedule(&self, schedule: ScheduleSpec) -> Result<Schedule, Error> {
        self.client().put_schedule(schedule).await
    }
}
