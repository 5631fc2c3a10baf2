//! Random commands of those who take messages: streams and pulls.

use std::collections::{BTreeMap, BTreeSet};

use super::super::model::{Asked, Consumer, Lease, Pulling};
use super::super::stage::{Outcome as Heard, StageIndex, deliveries_of};
use super::wanted::by_name;
use super::{How, LEASES_MAX, Play, pick_of};
use crate::queue::ids::{ConsumerId, LeaseToken};
use crate::queue::record::Record;
use crate::queue::{Delivery, Effect, OpenConsumer, Pull, PullId, Pulled, Selector};

/// Pulls that have a name.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    waiting: BTreeMap<PullId, (u64, String)>,
    tokens: BTreeMap<(u64, String), Vec<LeaseToken>>,
    /// How often it was told again, since the start, by calls that may have handed it over.
    pub(super) told_again: BTreeMap<LeaseToken, u32>,
}

impl Pulls {
    fn waits(&mut self, session: u64, request: &str, id: PullId) {
        if !request.is_empty() {
            self.waiting.insert(id, (session, request.to_owned()));
        }
    }

    fn got(&mut self, session: u64, request: &str, deliveries: &[Delivery]) {
        if !request.is_empty() {
            let tokens = deliveries.iter().map(|delivery| delivery.token).collect();
            self.tokens.insert((session, request.to_owned()), tokens);
        }
    }

    /// A pull that waited got these.
    pub(super) fn answered(&mut self, id: PullId, deliveries: &[Delivery]) {
        if let Some((session, request)) = self.waiting.remove(&id) {
            self.got(session, &request, deliveries);
        }
    }

    /// These cannot be read: who got nothing else was not answered.
    fn take_back(&mut self, unreadable: &BTreeSet<LeaseToken>) {
        self.tokens.retain(|_, tokens| {
            let before = tokens.len();
            tokens.retain(|token| !unreadable.contains(token));
            tokens.len() == before || !tokens.is_empty()
        });
    }

    /// The broker was started anew: nobody waits.
    pub(super) fn restart(&mut self) {
        self.waiting.clear();
        self.told_again.clear();
    }
}

impl<I: StageIndex> Play<I> {
    pub(super) fn consume(&mut self, mut open: OpenConsumer, held: u16, how: How) {
        let now = self.stage.now;
        let session = self.model.session_named(&open.session);
        let mut asked = Asked::default();
        let of_session = |(_, name): &&(ConsumerId, String)| *name == open.session;
        let known: Vec<_> = self.streams.iter().filter(of_session).map(|(id, _)| *id).collect();
        match how {
            How::Resume(pick) if !known.is_empty() => {
                let previous = known[usize::from(pick) % known.len()];
                let of_it = self.model.leases().filter(|(_, lease)| {
                    lease.consumer == previous.0 && Some(lease.session) == session
                });
                for (place, (birth, lease)) in of_it.enumerate() {
                    if held & 1 << (place % 16) != 0 {
                        open.held.push(lease.token);
                        asked.resumed.insert(birth);
                    } else {
                        asked.returns.insert(birth);
                    }
                }
                open.previous = Some(previous);
                if !open.reports_started {
                    asked.begun.clone_from(&asked.resumed);
                }
                self.streams.retain(|(id, _)| *id != previous);
                self.model.disconnect(previous.0, now);
                if let Some(session) = session {
                    self.model.forget_broken(session, previous.0);
                }
            }
            How::Reset => {
                asked.reset = session;
                self.model.consumers.retain(|_, consumer| Some(consumer.session) != session);
                self.model.pulls.retain(|_, pull| Some(pull.session) != session);
            }
            How::Resume(_) | How::Anew => {}
        }
        let heard = self.stage.turn(|core, now, out| core.open_consumer(&open, now, out));
        let opened = heard.answer.as_ref().expect("nothing refuses it");
        assert_eq!(opened.resumed, open.previous.is_some() && session.is_some());
        assert!(opened.lost.is_empty(), "all that was named was held");
        self.streams.push((opened.consumer, open.session.clone()));
        self.opened(&heard, &open, opened.consumer, asked);
    }

    /// The session is opened by the records, and the consumer is there before the first grant.
    pub(super) fn opened<T>(
        &mut self,
        heard: &Heard<T>,
        open: &OpenConsumer,
        id: ConsumerId,
        mut asked: Asked,
    ) {
        let before_grants =
            heard.logged.iter().position(|(_, record, _)| matches!(record, Record::Granted(_)));
        let (own, grants) = heard.logged.split_at(before_grants.unwrap_or(heard.logged.len()));
        for (lsn, record, _) in own {
            self.model.check(*lsn, record, &mut asked, self.stage.now);
        }
        let session = self.model.session_named(&open.session).expect("it is open");
        self.model.connect_session(session);
        let consumer = Consumer {
            session,
            queues: by_name(&open.queues),
            window: open.window,
            draining: false,
        };
        self.model.consumers.insert(id.0, consumer);
        let rest = Heard {
            answer: Ok(()),
            effects: Vec::new(),
            logged: grants.to_vec(),
            retired: Vec::new(),
        };
        for effect in &heard.effects {
            if let Effect::AnswerPull { pull, deliveries } = effect
                && let Some(first) = deliveries.first()
            {
                asked.answered.insert(first.token.grant.0, *pull);
                self.pulls.answered(*pull, deliveries);
            }
            self.tokens.extend(deliveries_of(effect).iter().map(|delivery| delivery.token));
        }
        self.heard(&rest, asked);
    }

    pub(super) fn pull(
        &mut self,
        queues: Vec<Selector>,
        messages_max: u32,
        session: Option<u8>,
        request: Option<u8>,
    ) {
        let name = session.map_or_else(String::new, |session| format!("s{session}"));
        let request_id = request.map_or_else(String::new, |request| format!("p{request}"));
        let pull =
            Pull { queues, messages_max, lease_duration_ms: None, session: name, request_id };
        if request.is_some() && self.pull_again(&pull) {
            return;
        }
        let full = self.model.leases().count() == LEASES_MAX;
        let heard = self.stage.turn(|core, now, out| core.pull(&pull, now, out));
        let queues = by_name(&pull.queues);
        let pulling = Pulling { queues, messages_max, session: 0 };
        let asked = Asked { pull: Some(pulling.clone()), ..Asked::default() };
        self.heard(&heard, asked);
        assert_eq!(heard.answer.is_err(), full, "{:?}", heard.answer);
        let session = self.model.session_named(&pull.session).filter(|_| !pull.session.is_empty());
        match heard.answer {
            Ok(Pulled::Now(deliveries)) => {
                deliveries.iter().for_each(|delivery| self.stage.note(delivery));
                self.tokens.extend(deliveries.iter().map(|delivery| delivery.token));
                self.pulls.got(session.unwrap_or_default(), &pull.request_id, &deliveries);
                if let Some(session) = session {
                    let boot_ms = self.stage.now.boot_ms;
                    self.model.sessions.get_mut(&session).unwrap().touch(boot_ms);
                }
            }
            Ok(Pulled::Waiting(id)) => {
                let session = session.unwrap_or_default();
                self.model.connect_session(session);
                self.model.pulls.insert(id, Pulling { session, ..pulling });
                self.pulls.waits(session, &pull.request_id, id);
            }
            Err(_) => {}
        }
    }

    /// A pull that was answered before gets the same, as far as it holds; one that waits gives way.
    fn pull_again(&mut self, pull: &Pull) -> bool {
        let session = match pull.session.as_str() {
            "" => Some(0),
            name => self.model.session_named(name),
        };
        let Some(session) = session else { return false };
        let key = (session, pull.request_id.clone());
        let Some(tokens) = self.pulls.tokens.get(&key).cloned() else {
            let is_full = self.model.leases().count() == LEASES_MAX;
            let is_it = |(id, waits): &(&PullId, &(u64, String))| {
                **waits == key && self.model.pulls.contains_key(id)
            };
            let waiting = self.pulls.waiting.iter().find(is_it).map(|(id, _)| *id);
            if let Some(id) = waiting.filter(|_| !is_full) {
                self.model.pulls.remove(&id);
                self.model.disconnect_session(session, self.stage.now);
            }
            return false;
        };
        let held = self.held(&tokens);
        let heard = self.stage.turn(|core, now, out| core.pull(pull, now, out));
        self.heard(&heard, Asked::default());
        let Ok(Pulled::Now(deliveries)) = heard.answer else { panic!("{:?}", heard.answer) };
        let again: BTreeSet<_> = deliveries.iter().map(|delivery| delivery.token).collect();
        assert_eq!(again, held, "the same leases, as far as they hold");
        self.stage.let_go(again.iter().copied());
        for token in &again {
            *self.pulls.told_again.entry(*token).or_default() += 1;
        }
        let boot_ms = self.stage.now.boot_ms;
        for token in again {
            self.model.let_go(token, boot_ms);
        }
        if let Some(session) = self.model.sessions.get_mut(&session) {
            session.touch(boot_ms);
        }
        true
    }

    pub(super) fn cancel_pull(&mut self, pick: u8) {
        let waiting: Vec<PullId> = self.model.pulls.keys().copied().collect();
        let Some(&pull) = pick_of(&waiting, pick) else { return };
        let pulling = self.model.pulls.remove(&pull).expect("it waits");
        self.model.disconnect_session(pulling.session, self.stage.now);
        let heard = self.stage.turn(|core, now, _| Ok(core.cancel_pull(pull, now)));
        self.heard(&heard, Asked::default());
        assert_eq!(heard.answer, Ok(true));
    }

    pub(super) fn undeliver(&mut self, picks: &[u8]) {
        let tokens = self.picked(picks);
        let held = self.held(&tokens);
        let mut is_last = |token: &&LeaseToken| match self.pulls.told_again.get_mut(token) {
            None | Some(0) => true,
            Some(again) => {
                *again -= 1;
                false
            }
        };
        let returns = held.iter().filter(&mut is_last).map(|token| token.birth.0).collect();
        let heard = self.stage.turn(|core, _, out| core.undeliver(tokens.iter().copied(), out));
        self.heard(&heard, Asked { returns, ..Asked::default() });
    }

    pub(super) fn unreadable(&mut self, picks: &[u8]) {
        let tokens = self.picked(picks);
        let held = self.held(&tokens);
        let unreadable = held.iter().map(|token| token.birth.0).collect();
        let park = tokens.iter().copied();
        let heard = self.stage.turn(|core, _, out| core.park_unreadable(park.clone(), out));
        self.pulls.take_back(&held);
        self.heard(&heard, Asked { unreadable, ..Asked::default() });
        assert_eq!(heard.answer.expect("nothing refuses it"), Vec::from_iter(held));
    }

    /// Those of the tokens whose leases hold.
    pub(super) fn held(&self, tokens: &[LeaseToken]) -> BTreeSet<LeaseToken> {
        let holds =
            |token: &&LeaseToken| self.model.leases().any(|(_, lease)| lease.token == **token);
        tokens.iter().filter(holds).copied().collect()
    }

    pub(super) fn begin(&mut self, pick: u8, picks: &[u8]) {
        let Some(id) = self.consumer(pick) else { return };
        let (tokens, session) = (self.picked(picks), self.model.consumers[&id.0].session);
        let own = |token: &&LeaseToken| {
            let lease = self.model.messages[&token.birth.0].lease().expect("it is held");
            lease.session == session && lease.unstarted
        };
        let begun = self.held(&tokens).iter().filter(own).map(|token| token.birth.0).collect();
        let heard = self.stage.turn(|core, _, out| core.report_started(id, &tokens, out));
        let asked = self.heard(&heard, Asked { begun, ..Asked::default() });
        assert!(asked.begun.is_empty(), "begun, and not in the log: {:?}", asked.begun);
    }

    pub(super) fn subscribe(&mut self, pick: u8, queues: &[Selector]) {
        let Some(id) = self.consumer(pick) else { return };
        self.model.consumers.get_mut(&id.0).expect("it is connected").queues = by_name(queues);
        let heard = self.stage.turn(|core, now, out| core.subscribe(id, queues, now, out));
        self.heard(&heard, Asked::default());
        assert_eq!(heard.answer, Ok(()));
    }

    pub(super) fn kick(&mut self, pick: u8, end_session: bool) {
        let Some(id) = self.consumer(pick) else { return };
        let session = self.model.consumers[&id.0].session;
        let mut asked = Asked::default();
        if end_session {
            asked.reset = Some(session);
            self.model.consumers.retain(|_, consumer| consumer.session != session);
            self.model.pulls.retain(|_, pull| pull.session != session);
        } else {
            self.model.disconnect(id.0, self.stage.now);
        }
        let heard =
            self.stage.turn(|core, now, out| core.disconnect_consumer(id, end_session, now, out));
        let is_told = |effect: &Effect| matches!(effect, Effect::Disconnected { consumer } if *consumer == id);
        assert!(heard.effects.iter().any(is_told));
        self.heard(&heard, asked);
        // What is beyond a step goes in others, at once.
        self.advance();
        let is_held = |lease: &Lease| end_session && lease.session == session;
        assert!(!self.model.leases().any(|(_, lease)| is_held(lease)), "{session} is over");
    }

    pub(super) fn close(&mut self, pick: u8) {
        let Some(id) = self.consumer(pick) else { return };
        let of_it = self.model.leases().filter(|(_, lease)| lease.consumer == id.0);
        let returns: BTreeSet<u64> = of_it.map(|(birth, _)| birth).collect();
        let now = self.stage.now;
        let gone = self.model.consumers.remove(&id.0).expect("it is connected");
        self.model.disconnect_session(gone.session, now);
        self.streams.retain(|(stream, _)| *stream != id);
        let heard = self.stage.turn(|core, now, out| core.close_consumer(id, now, out));
        self.heard(&heard, Asked { returns, ..Asked::default() });
        assert!(self.model.leases().all(|(_, lease)| lease.consumer != id.0));
    }
}
