//! Messages that the broker publishes by itself, again and again.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use qbroker_proto::v1::{self, schedule_service_client::ScheduleServiceClient};

use crate::admin::Page;
use crate::connection::{Channel, Client, MESSAGE_BYTES_MAX};
use crate::error::Error;
use crate::message::OutgoingMessage;
use crate::time;

/// What is to be published when; see [`Client::put_schedule`].
///
/// ```
/// use std::time::Duration;
/// use qbroker_client::{OutgoingMessage, ScheduleSpec};
///
/// let report = OutgoingMessage::new(r#"{"days": 1}"#).queue("reports").message_type("build_report");
/// let nightly = ScheduleSpec::new("nightly-report", "30 3 * * *", report)
///     .time_zone("Europe/Berlin")
///     .skip_if_unfinished(true)
///     .jitter(Duration::from_secs(60));
/// # drop(nightly);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a schedule does nothing until it is put"]
pub struct ScheduleSpec(v1::Schedule);

/// What happens to ticks that were missed: the broker was down, its disk full, or the clock set forward
/// over them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CatchUp {
    /// They are skipped, but for one that is at most 60 s late.
    Skip,
    /// The last one is published, late.
    #[default]
    Last,
    /// Each of them is published, in order, late.
    All,
    /// A policy that this client does not know, of a newer broker.
    Unknown,
}

/// A schedule as it is.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Schedule {
    /// Names it.
    pub name: String,
    /// When it ticks.
    pub cron: String,
    /// In which time zone; empty: UTC.
    pub time_zone: String,
    /// What it publishes.
    pub message: OutgoingMessage,
    /// Where to.
    pub queue: String,
    /// The message's type; may be empty.
    pub message_type: String,
    /// The message's payload.
    pub payload: Bytes,
    /// It does not tick.
    pub paused: bool,
    /// What happens to ticks that were missed.
    pub catch_up: CatchUp,
    /// A tick is skipped while the message before it is unfinished.
    pub skip_if_unfinished: bool,
    /// Each message is delayed by up to this.
    pub jitter: Duration,
    /// When a tick was published last.
    pub last_publish_time: Option<SystemTime>,
    /// The next ticks, five at most.
    pub next_publish_times: Vec<SystemTime>,
    /// Ticks that published a message.
    pub published_total: u64,
    /// Ticks that were skipped: the message was refused, or the one before unfinished.
    pub skipped_total: u64,
    /// Why the last tick was skipped; empty where it was not.
    pub last_skip_reason: String,
    /// When it was created.
    pub create_time: Option<SystemTime>,
}

/// Which schedules to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScheduleQuery {
    /// How many on a page, at most 1,000; 0: 50.
    pub page_size: u32,
    /// Of the page before; empty: the first page.
    pub page_token: String,
}

impl ScheduleSpec {
    /// Publishes a message, which names its queue, at the times of a cron expression of five or six
    /// fields, or of `@every 30s`.
    pub fn new(name: impl Into<String>, cron: impl Into<String>, message: OutgoingMessage) -> Self {
        Self(v1::Schedule {
            name: name.into(),
            cron: cron.into(),
            message: Some(message.0),
            ..v1::Schedule::default()
        })
    }

    /// Other times.
    pub fn cron(mut self, cron: impl Into<String>) -> Self {
        self.0.cron = cron.into();
        self
    }

    /// Another message.
    pub fn message(mut self, message: OutgoingMessage) -> Self {
        self.0.message = Some(message.0);
        self
    }

    /// The IANA name of the time zone, `Europe/Berlin` say. Default: UTC.
    pub fn time_zone(mut self, time_zone: impl Into<String>) -> Self {
        self.0.time_zone = time_zone.into();
        self
    }

    /// What happens to ticks that were missed. Default: the last one is published.
    pub fn catch_up(mut self, catch_up: CatchUp) -> Self {
        let policy = match catch_up {
            CatchUp::Skip => v1::CatchUpPolicy::Skip,
            CatchUp::Last => v1::CatchUpPolicy::Last,
            CatchUp::All => v1::CatchUpPolicy::All,
            CatchUp::Unknown => v1::CatchUpPolicy::Unspecified,
        };
        self.0.catch_up = policy.into();
        self
    }

    /// Delays each message by up to this, at most 24 h.
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.0.jitter = Some(time::duration(jitter));
        self
    }

    /// Whether a tick is skipped while the message before it is unfinished. Default: it is not.
    pub fn skip_if_unfinished(mut self, skip: bool) -> Self {
        self.0.skip_if_unfinished = skip;
        self
    }

    /// Whether it stands still. Default: as it does, and a new one does not.
    pub fn paused(mut self, paused: bool) -> Self {
        self.0.paused = Some(paused);
        self
    }
}

impl From<Schedule> for ScheduleSpec {
    /// The same schedule, which then stands still or not as it does.
    fn from(schedule: Schedule) -> Self {
        let Schedule { name, cron, message, time_zone, .. } = schedule;
        Self::new(name, cron, message)
            .time_zone(time_zone)
            .catch_up(schedule.catch_up)
            .jitter(schedule.jitter)
            .skip_if_unfinished(schedule.skip_if_unfinished)
    }
}

impl From<v1::Schedule> for Schedule {
    fn from(schedule: v1::Schedule) -> Self {
        let catch_up = match schedule.catch_up() {
            v1::CatchUpPolicy::Skip => CatchUp::Skip,
            v1::CatchUpPolicy::Last => CatchUp::Last,
            v1::CatchUpPolicy::All => CatchUp::All,
            v1::CatchUpPolicy::Unspecified => CatchUp::Unknown,
        };
        let message = schedule.message.unwrap_or_default();
        let times = schedule.next_publish_times.into_iter().filter_map(time::system_time);
        Self {
            name: schedule.name,
            cron: schedule.cron,
            time_zone: schedule.time_zone,
            queue: message.queue.clone(),
            message_type: message.message_type.clone(),
            payload: message.payload.clone(),
            message: OutgoingMessage(message),
            paused: schedule.paused.unwrap_or_default(),
            catch_up,
            skip_if_unfinished: schedule.skip_if_unfinished,
            jitter: schedule.jitter.and_then(time::from_wire).unwrap_or_default(),
            last_publish_time: schedule.last_publish_time.and_then(time::system_time),
            next_publish_times: times.collect(),
            published_total: schedule.published_total.try_into().unwrap_or_default(),
            skipped_total: schedule.skipped_total.try_into().unwrap_or_default(),
            last_skip_reason: schedule.last_skip_reason,
            create_time: schedule.create_time.and_then(time::system_time),
        }
    }
}

impl Client {
    /// Creates a schedule, or changes the one of its name; putting it twice changes nothing more.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `INVALID_ARGUMENT` and the like; otherwise it may or may not be there.
    pub async fn put_schedule(&self, spec: ScheduleSpec) -> Result<Schedule, Error> {
        let request = v1::PutScheduleRequest { schedule: Some(spec.0) };
        let call = |channel, request| async move { schedules(channel).put_schedule(request).await };
        schedule(self.call(true, Duration::ZERO, request, call).await?.schedule)
    }

    /// Returns one schedule.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `SCHEDULE_NOT_FOUND`, or what kept the client from asking.
    pub async fn get_schedule(&self, name: &str) -> Result<Schedule, Error> {
        let request = v1::GetScheduleRequest { name: name.to_owned() };
        let call = |channel, request| async move { schedules(channel).get_schedule(request).await };
        schedule(self.call(true, Duration::ZERO, request, call).await?.schedule)
    }

    /// Returns a page of schedules, by name.
    ///
    /// # Errors
    ///
    /// What kept the client from asking.
    pub async fn list_schedules(&self, query: ScheduleQuery) -> Result<Page<Schedule>, Error> {
        let request = v1::ListSchedulesRequest {
            page_size: query.page_size.try_into().unwrap_or(i32::MAX),
            page_token: query.page_token,
        };
        let call =
            |channel, request| async move { schedules(channel).list_schedules(request).await };
        let response = self.call(true, Duration::ZERO, request, call).await?;
        Ok(Page {
            items: response.schedules.into_iter().map(Schedule::from).collect(),
            next_page_token: response.next_page_token,
        })
    }

    /// Lets a schedule stand still.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `SCHEDULE_NOT_FOUND`; otherwise it may or may not have been done.
    pub async fn pause_schedule(&self, name: &str) -> Result<Schedule, Error> {
        let request = v1::PauseScheduleRequest { name: name.to_owned() };
        let call =
            |channel, request| async move { schedules(channel).pause_schedule(request).await };
        schedule(self.call(true, Duration::ZERO, request, call).await?.schedule)
    }

    /// Lets a schedule go on, with its first tick after now.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `SCHEDULE_NOT_FOUND`; otherwise it may or may not have been done.
    pub async fn resume_schedule(&self, name: &str) -> Result<Schedule, Error> {
        let request = v1::ResumeScheduleRequest { name: name.to_owned() };
        let call =
            |channel, request| async move { schedules(channel).resume_schedule(request).await };
        schedule(self.call(true, Duration::ZERO, request, call).await?.schedule)
    }

    /// Deletes a schedule; what it published stays.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `SCHEDULE_NOT_FOUND`; otherwise it may or may not be gone.
    pub async fn delete_schedule(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteScheduleRequest { name: name.to_owned() };
        let call =
            |channel, request| async move { schedules(channel).delete_schedule(request).await };
        // Not repeated: the second time it would not be found.
        self.call(false, Duration::ZERO, request, call).await?;
        Ok(())
    }

    /// Publishes a schedule's message now, beside its ticks; its id, unless the one before is unfinished
    /// and the schedule skips then.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `SCHEDULE_NOT_FOUND`, or as a publish is; otherwise it may or may not have
    /// been published.
    pub async fn trigger_schedule(&self, name: &str) -> Result<Option<String>, Error> {
        let request = v1::TriggerScheduleRequest { name: name.to_owned() };
        let call =
            |channel, request| async move { schedules(channel).trigger_schedule(request).await };
        // Not repeated: it would publish twice.
        let response = self.call(false, Duration::ZERO, request, call).await?;
        Ok((!response.duplicate).then_some(response.message_id))
    }
}

fn schedule(schedule: Option<v1::Schedule>) -> Result<Schedule, Error> {
    let missing = || Error::Protocol("the answer has no schedule".to_owned());
    schedule.map(Schedule::from).ok_or_else(missing)
}

fn schedules(channel: Channel) -> ScheduleServiceClient<Channel> {
    ScheduleServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}
