//! State in checkpoints.

use std::sync::Arc;

use prost::{Message, Oneof};
use qbroker_storage::Lsn;

use super::barriers::{Barrier, BarrierState, BarrierView};
use super::counters::{Answer, Counter};
use super::permits::Permit;
use super::record::{Member, ScheduleStored, Template};
use super::values::Value;
use super::{Key, State};
use crate::queue::ids::SessionId;
use crate::queue::record::StoredDue;
use crate::queue::shared_map::SharedMap;
use crate::queue::snapshot::SnapshotError;

/// One entry.
#[derive(Clone, PartialEq, Message)]
pub(in crate::queue) struct StateItem {
    #[prost(oneof = "Entry", tags = "1, 2, 3, 4, 5, 6")]
    entry: Option<Entry>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Entry {
    #[prost(message, tag = "1")]
    Value(ValueItem),
    #[prost(message, tag = "2")]
    Counter(CounterItem),
    #[prost(message, tag = "3")]
    Answer(CounterItem),
    #[prost(message, tag = "4")]
    Permit(PermitItem),
    #[prost(message, tag = "5")]
    Barrier(Box<BarrierItem>),
    #[prost(message, tag = "6")]
    Schedule(Box<ScheduleStored>),
}

#[derive(Clone, PartialEq, Message)]
struct ValueItem {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(uint64, tag = "2")]
    record: u64,
    #[prost(uint32, tag = "3")]
    size: u32,
    #[prost(message, optional, tag = "4")]
    end: Option<StoredDue>,
}

#[derive(Clone, PartialEq, Message)]
struct CounterItem {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(sint64, tag = "2")]
    value: i64,
    #[prost(message, optional, tag = "3")]
    end: Option<StoredDue>,
}

#[derive(Clone, PartialEq, Message)]
struct PermitItem {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(uint32, tag = "3")]
    epoch: u32,
    #[prost(message, required, tag = "4")]
    end: StoredDue,
    #[prost(uint64, tag = "5")]
    birth: u64,
    #[prost(uint64, tag = "6")]
    grant: u64,
    #[prost(uint64, tag = "7")]
    session: u64,
    #[prost(string, tag = "8")]
    request_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct BarrierItem {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(uint32, tag = "2")]
    parties: u32,
    #[prost(uint32, tag = "3")]
    arrived: u32,
    #[prost(uint32, tag = "4")]
    failed: u32,
    /// 0 open, 1 complete, 2 expired.
    #[prost(uint32, tag = "5")]
    state: u32,
    #[prost(message, required, tag = "6")]
    end: StoredDue,
    #[prost(bool, tag = "7")]
    collect: bool,
    /// Two halves, side by side.
    #[prost(fixed64, repeated, tag = "8")]
    hashes: Vec<u64>,
    #[prost(message, repeated, tag = "9")]
    members: Vec<Member>,
    #[prost(message, repeated, tag = "10")]
    on_complete: Vec<Template>,
    #[prost(message, repeated, tag = "11")]
    on_expire: Vec<Template>,
}

/// The state of one moment.
pub(in crate::queue) struct FrozenState {
    values: SharedMap<Key, Value>,
    counters: SharedMap<Key, Counter>,
    answers: SharedMap<Key, Answer>,
    permits: SharedMap<Lsn, Permit>,
    barriers: SharedMap<Key, Arc<Barrier>>,
    schedules: SharedMap<Key, Arc<ScheduleStored>>,
}

impl FrozenState {
    /// Every entry, always in the same order.
    pub(in crate::queue) fn items(&self) -> impl Iterator<Item = StateItem> {
        let values = self.values.iter().map(|(key, value)| {
            let (key, end) = (key.to_string(), value.end.map(Into::into));
            Entry::Value(ValueItem { key, record: value.record.0, size: value.size, end })
        });
        let counters = self.counters.iter().map(|(key, counter)| {
            let (key, end) = (key.to_string(), counter.end.map(Into::into));
            Entry::Counter(CounterItem { key, value: counter.value, end })
        });
        let answers = self.answers.iter().map(|(key, answer)| {
            let (key, end) = (key.to_string(), Some(answer.end.into()));
            Entry::Answer(CounterItem { key, value: answer.value, end })
        });
        let permits = self.permits.iter().map(|(id, permit)| {
            Entry::Permit(PermitItem {
                id: id.0,
                key: permit.key.to_string(),
                epoch: permit.epoch,
                end: permit.end.into(),
                birth: permit.lease.0.0,
                grant: permit.lease.1.0,
                session: permit.session.0,
                request_id: permit.request_id.to_string(),
            })
        });
        let barriers = self
            .barriers
            .iter()
            .map(|(key, barrier)| Entry::Barrier(Box::new(barrier_item(key, barrier))));
        let schedules = self.schedules.iter();
        let schedules = schedules.map(|(_, it)| Entry::Schedule(Box::new((**it).clone())));
        let entries = values.chain(counters).chain(answers).chain(permits).chain(barriers);
        let entries = entries.chain(schedules);
        entries.map(|entry| StateItem { entry: Some(entry) })
    }
}

impl State {
    /// Everything, as it is at this moment. Cheap.
    pub(in crate::queue) fn frozen(&self) -> FrozenState {
        FrozenState {
            values: self.values.clone(),
            counters: self.counters.clone(),
            answers: self.answers.clone(),
            permits: self.permits.frozen(),
            barriers: self.barriers.clone(),
            schedules: self.schedules.clone(),
        }
    }

    /// Takes an entry of a snapshot; `keep` is told a record that the log must keep.
    pub(in crate::queue) fn restore(
        &mut self,
        item: StateItem,
        mut keep: impl FnMut(Lsn),
    ) -> Result<(), SnapshotError> {
        match item.entry.ok_or(SnapshotError::UnknownItem)? {
            Entry::Value(it) => {
                keep(Lsn(it.record));
                let end = it.end.map(Into::into);
                self.put_value(it.key.into(), Value { record: Lsn(it.record), size: it.size, end });
            }
            Entry::Counter(it) => {
                let end = it.end.map(Into::into);
                self.put_counter(it.key.into(), Counter { value: it.value, end });
            }
            Entry::Answer(it) => {
                let end = it.end.ok_or(SnapshotError::UnknownItem)?.into();
                self.put_answer(it.key.into(), Answer { value: it.value, end });
            }
            Entry::Permit(it) => {
                let permit = Permit {
                    key: it.key.into(),
                    epoch: it.epoch,
                    end: it.end.into(),
                    lease: (Lsn(it.birth), Lsn(it.grant)),
                    session: SessionId(it.session),
                    request_id: it.request_id.into(),
                };
                self.put_permit(Lsn(it.id), permit);
            }
            Entry::Barrier(it) => {
                let key = it.key.as_str().into();
                self.put_barrier(key, barrier(*it)?);
            }
            Entry::Schedule(it) => self.put_schedule(*it),
        }
        Ok(())
    }
}

fn barrier_item(key: &str, barrier: &Barrier) -> BarrierItem {
    let state = match barrier.view.state {
        BarrierState::Open => 0,
        BarrierState::Complete => 1,
        BarrierState::Expired => 2,
    };
    #[expect(clippy::cast_possible_truncation, reason = "halves of a hash")]
    let halves = |hash: &u128| [(hash >> 64) as u64, *hash as u64];
    BarrierItem {
        key: key.to_owned(),
        parties: barrier.view.parties,
        arrived: barrier.view.arrived,
        failed: barrier.view.failed,
        state,
        end: barrier.end.into(),
        collect: barrier.collect,
        hashes: barrier.hashes.iter().flat_map(halves).collect(),
        members: barrier.members.clone(),
        on_complete: barrier.on_complete.clone(),
        on_expire: barrier.on_expire.clone(),
    }
}

fn barrier(it: BarrierItem) -> Result<Barrier, SnapshotError> {
    let state = match it.state {
        0 => BarrierState::Open,
        1 => BarrierState::Complete,
        2 => BarrierState::Expired,
        _ => return Err(SnapshotError::UnknownItem),
    };
    let (parties, arrived, failed) = (it.parties, it.arrived, it.failed);
    let (pairs, _) = it.hashes.as_chunks();
    let whole = |[high, low]: &[u64; 2]| u128::from(*high) << 64 | u128::from(*low);
    Ok(Barrier {
        view: BarrierView { parties, arrived, failed, state },
        end: it.end.into(),
        collect: it.collect,
        hashes: pairs.iter().map(whole).collect(),
        members: it.members,
        on_complete: it.on_complete,
        on_expire: it.on_expire,
    })
}
