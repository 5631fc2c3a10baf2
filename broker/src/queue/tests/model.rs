//! What may become of a message, in the plainest words: the model of the random tests.
//!
//! Every record is a claim, and the model knows whether it is true: a message is granted only when
//! it is the first that is ready and somebody has room, it is gone only when it was acked, purged or
//! discarded, a lease ends only when its time, its session or its stream is over.

mod bounds;
mod effects;
mod ends;
mod keys;
mod operations;
mod outcomes;
mod room;
mod settle;
mod state;
mod takers;

use std::collections::{BTreeMap, BTreeSet};

use qbroker_storage::Lsn;

use crate::queue::ids::{ConsumerId, LeaseToken};
use crate::queue::index::StateSet;
use crate::queue::record::{Granted, QueueDefinition, Record, Resumed, Updated};
use crate::queue::time::{Due, Now};
use crate::queue::{Outcome, PullId, Selector, Window};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    Ready,
    Scheduled(Due),
    Leased(Lease),
    Parked,
    Behind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lease {
    pub(super) token: LeaseToken,
    pub(super) session: u64,
    pub(super) consumer: u64,
    timed: bool,
    /// Its end is no crash.
    pub(super) unstarted: bool,
    duration_ms: u64,
    up_to_ms: u64,
    deadline: Option<u64>,
}

impl Lease {
    fn run(&mut self, boot_ms: u64) {
        let lasts = match (self.timed, self.up_to_ms) {
            (true, _) => Some(self.duration_ms),
            (false, 0) => None,
            (false, up_to_ms) => Some(up_to_ms),
        };
        self.deadline = lasts.map(|ms| boot_ms + ms);
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub(super) queue: u32,
    pub(super) what: What,
    pub(super) place: u64,
    pub(super) failures: u32,
    pub(super) crashes: u32,
    pub(super) priority: u32,
    pub(super) ttl_end: Option<Due>,
    pub(super) max_attempts: i32,
    pub(super) unique: Option<u64>,
    pub(super) ordering: Option<u64>,
    pub(super) leads: bool,
    pub(super) fairness: Option<u64>,
    pub(super) size: u64,
    pub(super) publish_ms: u64,
    /// Why it is a dead letter, and the name of the queue that it came from.
    pub(super) letter: Option<(i32, String)>,
}

impl Message {
    pub(super) fn lease(&self) -> Option<&Lease> {
        match &self.what {
            What::Leased(lease) => Some(lease),
            What::Ready | What::Scheduled(_) | What::Parked | What::Behind => None,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) name: String,
    grace_ms: u64,
    connections: u32,
    deadline: Option<u64>,
    broken: BTreeMap<u64, u64>,
}

impl Session {
    pub(super) fn touch(&mut self, boot_ms: u64) {
        if self.connections == 0 {
            self.deadline = Some(boot_ms + self.grace_ms);
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub(super) session: u64,
    pub(super) queues: BTreeMap<String, Selector>,
    pub(super) window: Window,
    pub(super) draining: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Pulling {
    pub(super) queues: BTreeMap<String, Selector>,
    pub(super) messages_max: u32,
    pub(super) session: u64,
}

/// What the command under way asks for: nothing else may happen.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) publish: bool,
    /// Values, counters or permits may change.
    pub(super) state: bool,
    pub(super) tick: bool,
    pub(super) settle: BTreeMap<u64, Outcome>,
    /// Leases that may be returned uncounted.
    pub(super) returns: BTreeSet<u64>,
    /// Messages that are told to be unreadable, and held.
    pub(super) unreadable: BTreeSet<u64>,
    pub(super) resumed: BTreeSet<u64>,
    /// Leases on which work may begin.
    pub(super) begun: BTreeSet<u64>,
    pub(super) reset: Option<u64>,
    pub(super) purge: Option<(u32, StateSet)>,
    /// The message that gets another content, with its size and perhaps another priority.
    pub(super) patch: Option<(u64, u64, Option<u8>)>,
    /// Messages that are deleted by name.
    pub(super) remove: BTreeSet<u64>,
    /// Messages that are changed, with the priority and the time asked for.
    pub(super) update: Option<(BTreeSet<u64>, Option<u8>, Option<Due>)>,
    pub(super) delete: Option<u32>,
    /// The queue that messages are moved from, and whether their attempts begin anew.
    pub(super) moving: Option<(u32, bool)>,
    /// The only messages that may be moved or purged, where a filter says which.
    pub(super) meant: Option<BTreeSet<u64>>,
    pub(super) pull: Option<Pulling>,
    /// Waiting pulls that were answered, by grant.
    pub(super) answered: BTreeMap<u64, PullId>,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) messages: BTreeMap<u64, Message>,
    pub(super) queues: BTreeMap<u32, QueueDefinition>,
    pub(super) sessions: BTreeMap<u64, Session>,
    pub(super) consumers: BTreeMap<u64, Consumer>,
    pub(super) pulls: BTreeMap<PullId, Pulling>,
    /// By birth and grant: the kind of settlement, and when.
    settled: BTreeMap<(u64, u64), (&'static str, u64)>,
    /// Message ids by queue, with the message and the end of the window.
    pub(super) ids: BTreeMap<(u32, u8), (u64, u64)>,
    pub(super) state: state::StateModel,
    /// Births of finished messages whose outcomes are kept, by queue, with when they were written.
    outcomes: BTreeMap<u32, Vec<(u64, u64)>>,
    /// When messages of queues with a rate were delivered, since the start.
    delivered: BTreeMap<u32, Vec<u64>>,
    epoch: u32,
}

impl Model {
    pub(super) fn queue_named(&self, name: &str) -> Option<&QueueDefinition> {
        self.queues.values().find(|queue| queue.name == name)
    }

    pub(super) fn session_named(&self, name: &str) -> Option<u64> {
        let is_it = |session: &Session| !name.is_empty() && session.name == name;
        self.sessions.iter().find(|(_, session)| is_it(session)).map(|(&id, _)| id)
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = (u64, &Lease)> {
        self.messages.iter().filter_map(|(&birth, message)| Some((birth, message.lease()?)))
    }

    /// A record is true, and what it says is so from now on.
    pub(super) fn check(&mut self, lsn: Lsn, record: &Record, asked: &mut Asked, now: Now) {
        match record {
            Record::Started(it) => self.epoch = it.epoch,
            Record::QueuePut(it) => drop(self.queues.insert(it.id, QueueDefinition::clone(it))),
            Record::QueueDeleted(it) => {
                assert_eq!(asked.delete, Some(it.queue), "nobody deleted {}", it.queue);
                self.messages.retain(|_, message| message.queue != it.queue);
                self.queues.remove(&it.queue);
            }
            Record::Deleted(it) => {
                for birth in &it.births {
                    let message = self.messages.remove(birth).expect("it is there");
                    let purged = asked.purge.is_some_and(|(queue, states)| {
                        message.queue == queue && states.contains(message.state_bit())
                    });
                    let purged = purged && asked.means(*birth);
                    assert!(asked.remove.remove(birth) || purged, "nobody deleted {birth}");
                }
            }
            Record::Dropped(it) => self.check_dropped(&it.births, asked),
            Record::Updated(it) => self.check_updated(lsn, it, asked, now),
            Record::Moved(it) => self.check_moved(lsn, it, asked),
            Record::OperationStarted(_) | Record::OperationStepped(_) => {}
            Record::Published(it) => {
                if !asked.publish {
                    assert!(asked.tick, "nobody published {lsn}");
                    self.state.published.push(self.queues[&it.queue].name.clone());
                }
                let due: Option<Due> = it.due.map(Into::into);
                let what = due.map_or(What::Ready, What::Scheduled);
                let place = if due.is_some() { 0 } else { lsn.0 };
                let (queue, size) = (it.queue, u64::from(it.size));
                let (failures, crashes, priority, ttl_end) = (0, 0, it.priority, it.ttl_end());
                assert!(ttl_end.is_none_or(|end| !end.is_over(now)), "{lsn} is born too late");
                let max_attempts = it.max_attempts.unwrap_or_default();
                let unique = it.unique_hash;
                let holders = unique.map(|key| self.key_holders(queue, key)).unwrap_or_default();
                assert!(holders.is_empty(), "{lsn} is not the only one of its key: {holders:?}");
                let message = Message {
                    queue,
                    what,
                    place,
                    failures,
                    crashes,
                    priority,
                    ttl_end,
                    max_attempts,
                    unique,
                    ordering: it.ordering_hash,
                    leads: false,
                    fairness: it.fairness_hash,
                    size,
                    publish_ms: it.wall_ms,
                    letter: None,
                };
                assert!(self.messages.insert(lsn.0, message).is_none());
                self.join_line(lsn.0);
            }
            Record::SessionOpened(it) => {
                let (name, grace_ms) = (it.name.clone(), it.grace_ms);
                self.sessions.insert(lsn.0, Session { name, grace_ms, ..Session::default() });
            }
            Record::SessionChanged(it) => {
                let session = self.sessions.get_mut(&it.session).unwrap();
                session.grace_ms = it.grace_ms;
                if it.disowned {
                    assert_eq!(asked.reset, Some(it.session), "nobody gives it up");
                    session.name.clear();
                    session.connections = 0;
                    session.touch(now.boot_ms);
                }
            }
            Record::SessionEnded(it) => {
                assert!(self.is_session_over(it.session, asked, now), "{} has time", it.session);
                assert!(self.leases().all(|(_, lease)| lease.session != it.session));
                self.sessions.remove(&it.session);
            }
            Record::Granted(it) => self.check_granted(lsn, it, asked, now),
            Record::Extended(it) => {
                for birth in &it.births {
                    let What::Leased(lease) = &mut self.message(*birth).what else { panic!() };
                    lease.duration_ms = it.duration_ms;
                    lease.run(now.boot_ms);
                }
            }
            Record::Begun(it) => self.check_begun(it, asked),
            Record::LeasesEnded(it) => self.check_ended(it, asked, now),
            Record::Resumed(it) => self.check_resumed(it, asked),
            Record::Acked(it) => {
                for birth in &it.births {
                    assert!(matches!(asked.settle.remove(birth), Some(Outcome::Ack)));
                    self.settle(*birth, "ack", now);
                    self.messages.remove(birth);
                }
            }
            Record::Released(it) => self.check_released(it, asked, now),
            Record::Nacked(it) => self.check_nacked(it, asked, now),
            Record::DeadLettered(it) => self.check_dead(lsn, it, asked, now),
            Record::CameDue(it) => {
                for birth in &it.births {
                    let message = self.message(*birth);
                    let What::Scheduled(due) = message.what else { panic!("{birth} is not due") };
                    assert!(asked.tick && due.is_over(now), "{birth} is early");
                    message.what = What::Ready;
                    message.place = if message.place == 0 { lsn.0 } else { message.place };
                    self.join_line(*birth);
                }
            }
            Record::Parked(it) => {
                for birth in &it.births {
                    if it.unreadable {
                        assert!(asked.unreadable.remove(birth), "{birth} can be read");
                        assert!(self.message(*birth).lease().is_some());
                    } else {
                        self.check_crash(*birth, asked, now, true);
                    }
                    self.message(*birth).what = What::Parked;
                    self.message(*birth).leads = false;
                }
            }
            Record::Advanced(it) => it.births.iter().for_each(|birth| self.check_advanced(*birth)),
            Record::StateChanged(it) => self.state.check(lsn, it, asked, now),
            Record::Patched(it) => self.check_patched(it, asked),
            Record::PagedOut(it) => {
                for birth in &it.births {
                    let what = &self.message(*birth).what;
                    assert!(!matches!(what, What::Leased(_)), "{birth} is held");
                }
            }
            Record::Expired(it) => self.check_expired(it, now),
            Record::OutcomeWritten(it) => self.check_outcome(it),
            Record::OutcomesForgotten(it) => self.check_forgotten(it, now),
            Record::Purged(_)
            | Record::ProducerOpened(_)
            | Record::ProducersForgotten(_)
            | Record::BatchStored(_)
            | Record::BatchRefused(_) => panic!("nobody asked for {record:?}"),
        }
    }

    fn message(&mut self, birth: u64) -> &mut Message {
        self.messages.get_mut(&birth).unwrap_or_else(|| panic!("{birth} is gone, or never was"))
    }

    fn check_updated(&mut self, lsn: Lsn, it: &Updated, asked: &mut Asked, now: Now) {
        let (births, priority, due) = asked.update.take().expect("nobody changes it");
        assert_eq!(BTreeSet::from_iter(it.births.iter().copied()), births);
        assert_eq!(it.priority, priority.map(u32::from));
        for birth in births {
            let message = self.message(birth);
            message.priority = it.priority.unwrap_or(message.priority);
            let Some(due) = due else { continue };
            assert!(message.lease().is_none(), "{birth} is held");
            message.leads &= due.is_over(now) || matches!(message.what, What::Scheduled(_));
            message.what = if due.is_over(now) { What::Ready } else { What::Scheduled(due) };
            if due.is_over(now) && message.place == 0 {
                message.place = lsn.0;
            }
            self.join_line(birth);
        }
    }

    fn check_granted(&mut self, lsn: Lsn, it: &Granted, asked: &mut Asked, now: Now) {
        let queue = self.message(it.births[0]).queue;
        let name = self.queues[&queue].name.clone();
        assert!(!self.queues[&queue].paused, "{name} is paused");
        self.check_flow(queue, it.births.len(), now);
        self.check_order(queue, &it.births);
        let mut granted = it.births.iter().map(|birth| &self.messages[birth]);
        assert!(
            granted.all(|message| message.ttl_end.is_none_or(|end| !end.is_over(now))),
            "too old"
        );
        let sizes: Vec<u64> = it.births.iter().map(|birth| self.messages[birth].size).collect();
        if it.consumer == 0 {
            self.check_pull(lsn, it, &name, asked, now);
        } else {
            self.check_window(it, &name, &sizes, now);
        }
        let epoch = self.epoch;
        for &birth in &it.births {
            let mut lease = Lease {
                token: LeaseToken { birth: Lsn(birth), grant: lsn, epoch },
                session: it.session,
                consumer: it.consumer,
                timed: it.timed,
                unstarted: it.unstarted,
                duration_ms: it.duration_ms,
                up_to_ms: it.extension_ms_max,
                deadline: None,
            };
            lease.run(now.boot_ms);
            self.message(birth).what = What::Leased(lease);
        }
    }

    fn check_resumed(&mut self, it: &Resumed, asked: &mut Asked) {
        for &birth in &it.held {
            assert!(asked.resumed.remove(&birth), "{birth} was not named");
            let What::Leased(lease) = &mut self.message(birth).what else { panic!() };
            assert_eq!((lease.session, lease.consumer), (it.session, it.previous));
            lease.consumer = it.consumer;
        }
    }

    /// The broker was started anew, perhaps with the machine.
    pub(super) fn restart(&mut self, now: Now, rebooted: bool) {
        self.consumers.clear();
        self.pulls.clear();
        self.delivered.clear();
        for session in self.sessions.values_mut() {
            session.connections = 0;
            session.broken.clear();
            session.touch(now.boot_ms);
        }
        if rebooted {
            self.state.forget_boot_clock();
        }
        for message in self.messages.values_mut() {
            if let Some(end) = message.ttl_end.as_mut().filter(|_| rebooted) {
                end.boot_ms = None;
            }
            match &mut message.what {
                What::Scheduled(due) if rebooted => due.boot_ms = None,
                What::Leased(lease) => {
                    lease.run(now.boot_ms);
                    if let Some(session) = self.sessions.get_mut(&lease.session)
                        && lease.consumer != ConsumerId::NONE.0
                    {
                        session.broken.insert(lease.consumer, now.boot_ms + session.grace_ms);
                    }
                }
                What::Ready | What::Scheduled(_) | What::Parked | What::Behind => {}
            }
        }
    }

    /// Nothing is left undone that was due by now.
    pub(super) fn check_nothing_is_overdue(&mut self, now: Now) {
        self.check_nothing_is_beyond_bounds();
        self.check_state_is_not_overdue(now);
        for (birth, message) in &self.messages {
            let is_over = message.ttl_end.is_some_and(|end| end.is_over(now));
            assert!(!is_over || message.lease().is_some(), "{birth} is too old");
            match &message.what {
                What::Scheduled(due) => assert!(!due.is_over(now), "{birth} is late"),
                What::Leased(lease) => {
                    assert!(lease.deadline.is_none_or(|ms| now.boot_ms < ms), "{birth} is over");
                }
                What::Ready | What::Parked | What::Behind => {}
            }
        }
        for (id, session) in &mut self.sessions {
            assert!(session.deadline.is_none_or(|ms| now.boot_ms < ms), "session {id} is over");
            session.broken.retain(|_, deadline| now.boot_ms < *deadline);
        }
        for (birth, lease) in self.leases() {
            let session = self.sessions.get(&lease.session);
            let connected = self.consumers.contains_key(&lease.consumer);
            let waits = session.is_some_and(|session| session.broken.contains_key(&lease.consumer));
            assert!(lease.consumer == 0 || connected || waits, "{birth} is held by nobody");
        }
    }
}

impl Message {
    pub(super) fn state_bit(&self) -> StateSet {
        match self.what {
            What::Ready => StateSet::READY,
            What::Scheduled(_) => StateSet::SCHEDULED,
            What::Leased(_) => StateSet::LEASED,
            What::Parked => StateSet::PARKED,
            What::Behind => StateSet::BEHIND,
        }
    }
}
