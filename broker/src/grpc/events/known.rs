//! The names of messages and queues that a watch has come across.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use qbroker_storage::Lsn;

use crate::engine::{Engine, Stopped};
use crate::grpc::convert::delivery;
use crate::grpc::convert::event::Names;
use crate::queue::event::{Event, EventKind, events};
use crate::queue::ids::QueueId;
use crate::queue::index::Index as _;

/// Messages whose names a watch remembers: those that others may be about to happen to.
const MESSAGES_MAX: usize = 4_096;
/// Bytes of message bodies that are read together, more only of a single one.
const BODIES_BYTES: u64 = 1 << 20;
/// Queues whose names a watch remembers.
const QUEUES_MAX: usize = 4_096;

/// Names by what the log has: births and numbers.
#[derive(Debug, Default)]
pub(super) struct Known {
    messages: HashMap<Lsn, Arc<Names>>,
    /// Those of `messages`, the oldest first.
    order: VecDeque<Lsn>,
    queues: HashMap<QueueId, String>,
}

impl Known {
    /// A queue's name; empty where it is gone, and was not known before.
    pub(super) fn queue(&mut self, engine: &Engine, queue: QueueId) -> String {
        if let Some(name) = self.queues.get(&queue) {
            return name.clone();
        }
        let name =
            |core: &crate::engine::Core| Some(core.queue_by_id(queue)?.definition.name.clone());
        let Some(name) = engine.look(name).1 else { return String::new() };
        if QUEUES_MAX <= self.queues.len() {
            self.queues.clear();
        }
        self.queues.insert(queue, name.clone());
        name
    }

    /// What the message of an event was published as. `rest` are the heads from its record on: what
    /// they publish is read together.
    pub(super) async fn message(
        &mut self,
        engine: &Arc<Engine>,
        event: &Event,
        rest: &[(Lsn, Bytes)],
    ) -> Result<Arc<Names>, Stopped> {
        if let Some(names) = self.messages.get(&event.birth) {
            return Ok(names.clone());
        }
        let births = match event.kind {
            EventKind::Published { .. } => published(rest),
            _ => vec![event.birth],
        };
        let records = engine.read(births.clone()).await?;
        let mut found = Arc::default();
        for (birth, record) in births.into_iter().zip(records) {
            let names = match record {
                Ok(record) => delivery::names(&record).ok(),
                Err(_) => patched_names(engine, birth).await?,
            };
            let names = Arc::new(names.unwrap_or_default());
            if birth == event.birth {
                found = names.clone();
            }
            self.remember(birth, names);
        }
        Ok(found)
    }

    fn remember(&mut self, birth: Lsn, names: Arc<Names>) {
        if MESSAGES_MAX <= self.order.len() {
            let oldest = self.order.pop_front().expect("there are some");
            self.messages.remove(&oldest);
        }
        if self.messages.insert(birth, names).is_none() {
            self.order.push_back(birth);
        }
    }
}

/// What a message is called whose first content is gone, because it got another one. Nothing of one that
/// is done.
async fn patched_names(engine: &Arc<Engine>, birth: Lsn) -> Result<Option<Names>, Stopped> {
    let content = engine.find(|core| Ok(core.index().message(birth)?.map(|it| it.content(birth))));
    let Some(content) = content.await?.filter(|content| *content != birth) else { return Ok(None) };
    let record = engine.read(vec![content]).await?.pop().and_then(Result::ok);
    Ok(record.and_then(|record| delivery::names(&record).ok()))
}

/// The first messages that these heads publish, as many as are read together.
fn published(heads: &[(Lsn, Bytes)]) -> Vec<Lsn> {
    let mut births = Vec::new();
    let mut bytes = 0;
    for (lsn, head) in heads.iter().take(MESSAGES_MAX / 2) {
        let told = events(*lsn, head).unwrap_or_default();
        let Some(EventKind::Published { size }) = told.first().map(|event| event.kind) else {
            continue;
        };
        bytes += u64::from(size);
        if BODIES_BYTES < bytes && !births.is_empty() {
            break;
        }
        births.push(*lsn);
    }
    births
}
