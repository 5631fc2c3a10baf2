//! Schedules that clients hand in and ask for.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use prost::Message as _;
use qbroker_proto::v1::{self, outgoing_message};

use super::batch::{IdHasher, outgoing_message};
use super::time::{duration_ms, to_duration, to_timestamp};
use crate::calendar::{self, CALENDAR};
use crate::grpc::fault::Fault;
use crate::queue::body::StoredMessage;
use crate::queue::state::record::Template;
use crate::queue::state::{CatchUp, PutSchedule, Schedule};

/// Bytes of a cron expression.
const CRON_BYTES_MAX: usize = 256;
/// Headers that a schedule's message may have: two more come with each tick.
const HEADERS_MAX: usize = 62;
const JITTER_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// Ticks to come that are told.
const NEXT_TICKS: usize = 5;

/// A schedule as a client hands it in.
pub(in crate::grpc) fn put(schedule: v1::Schedule, hasher: IdHasher) -> Result<PutSchedule, Fault> {
    let catch_up = catch_up(schedule.catch_up)?;
    let v1::Schedule { name, cron, time_zone, message, paused, jitter, .. } = schedule;
    super::bounds::text("cron", &cron, CRON_BYTES_MAX)?;
    calendar::check_zone(&time_zone).map_err(|why| Fault::invalid("time_zone", why))?;
    calendar::check(&cron, &time_zone).map_err(|why| Fault::invalid("cron", why))?;
    let mut message = super::state::needed("message", message)?;
    check_message(&message)?;
    let own_key = format!("schedule:{name}");
    if schedule.skip_if_unfinished && message.unique_key.is_empty() {
        message.unique_key = own_key;
    } else if !schedule.skip_if_unfinished && message.unique_key == own_key {
        // Told with the schedule, and handed in again: it would go on skipping.
        message.unique_key.clear();
    }
    let nowhere: Arc<str> = Arc::from("");
    Ok(PutSchedule {
        name: name.into(),
        cron,
        time_zone,
        message: outgoing_message(message, &nowhere, hasher, &mut BytesMut::new())?,
        catch_up,
        jitter_ms: duration_ms("jitter", jitter, 0, JITTER_MS_MAX)?.unwrap_or_default(),
        skip_if_unfinished: schedule.skip_if_unfinished,
        paused,
    })
}

/// Of what is published again and again, nothing may be but once.
fn check_message(message: &v1::OutgoingMessage) -> Result<(), Fault> {
    if !message.message_id.is_empty() {
        let why = "each message of a schedule has an id of its own; leave it unset";
        return Err(Fault::invalid("message_id", why));
    }
    if matches!(message.schedule, Some(outgoing_message::Schedule::DeliverTime(_))) {
        let why = "a schedule's message has no time but its ticks; a delay is possible";
        return Err(Fault::invalid("deliver_time", why));
    }
    if HEADERS_MAX < message.headers.len() {
        let why = format!("a schedule's message has at most {HEADERS_MAX}: two more come with it");
        return Err(Fault::invalid("headers", why));
    }
    Ok(())
}

fn catch_up(policy: i32) -> Result<CatchUp, Fault> {
    use v1::CatchUpPolicy as Policy;
    match Policy::try_from(policy) {
        Ok(Policy::Unspecified | Policy::Last) => Ok(CatchUp::Last),
        Ok(Policy::Skip) => Ok(CatchUp::Skip),
        Ok(Policy::All) => Ok(CatchUp::All),
        Err(_) => Err(Fault::invalid("catch_up", format!("{policy} is no policy"))),
    }
}

/// A schedule as clients are told of it.
pub(in crate::grpc) fn told(schedule: &Schedule) -> v1::Schedule {
    let catch_up = match schedule.catch_up() {
        CatchUp::Last => v1::CatchUpPolicy::Last,
        CatchUp::Skip => v1::CatchUpPolicy::Skip,
        CatchUp::All => v1::CatchUpPolicy::All,
    };
    let next = schedule.next_ticks(CALENDAR, NEXT_TICKS);
    v1::Schedule {
        name: schedule.name.clone(),
        cron: schedule.cron.clone(),
        time_zone: schedule.time_zone.clone(),
        message: schedule.message.as_ref().map(message),
        paused: Some(schedule.paused),
        catch_up: catch_up.into(),
        skip_if_unfinished: schedule.skip_if_unfinished,
        last_publish_time: schedule.publish_ms.map(to_timestamp),
        next_publish_times: next.into_iter().map(to_timestamp).collect(),
        jitter: (schedule.jitter_ms != 0).then(|| to_duration(schedule.jitter_ms)),
        published_total: schedule.published_total.cast_signed(),
        skipped_total: schedule.skipped_total.cast_signed(),
        last_skip_reason: schedule.skipped.clone(),
        create_time: Some(to_timestamp(schedule.create_ms)),
    }
}

/// The message that a template was made of.
fn message(template: &Template) -> v1::OutgoingMessage {
    let stored = StoredMessage::decode(template.body.clone()).expect("it was encoded here");
    let headers: HashMap<String, String> = stored.headers.into_iter().collect();
    v1::OutgoingMessage {
        message_id: stored.message_id,
        queue: template.queue.clone(),
        payload: stored.payload,
        content_type: stored.content_type,
        headers,
        message_type: stored.message_type,
        correlation_id: stored.correlation_id,
        priority: i32::try_from(template.priority).unwrap_or_default(),
        ordering_key: stored.ordering_key,
        unique_key: stored.unique_key,
        fairness_key: stored.fairness_key,
        max_attempts: template.max_attempts,
        ttl: template.ttl_ms.map(to_duration),
        schedule: template.delay_ms.map(|ms| outgoing_message::Schedule::Delay(to_duration(ms))),
    }
}
