//! Sessions and their streams: who takes messages, and whose leases end with whom.

use std::collections::BTreeMap;

use super::{Lease, Model, Policy, Sequence, State, Time, Token, Wrong};

/// Names a stream; zero is none.
pub(crate) type Stream = u64;

/// A worker process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    /// In the order in which they came.
    number: u64,
    grace_ms: u64,
    connections: u32,
    /// The end of its grace, while it has no stream.
    deadline: Option<u64>,
    /// Streams that broke and left leases, with the end of their grace.
    broken: BTreeMap<Stream, u64>,
    /// Streams that took the place of others, with the names by which the client may call them.
    known_as: BTreeMap<Stream, Stream>,
}

impl Session {
    fn touch(&mut self, now: Time) {
        if self.connections == 0 {
            self.deadline = Some(now.boot_ms + self.grace_ms);
        }
    }
}

/// An open stream.
#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    session: &'static str,
    /// With their ranks.
    queues: BTreeMap<&'static str, i32>,
    window: usize,
}

/// How a stream is opened.
#[derive(Clone, Debug)]
pub(crate) struct Connect {
    pub(crate) session: &'static str,
    pub(crate) grace_ms: u64,
    /// With their ranks: the smaller one first.
    pub(crate) queues: BTreeMap<&'static str, i32>,
    pub(crate) window: usize,
    pub(crate) reports_started: bool,
    /// What the session held is lost.
    pub(crate) reset: bool,
    pub(crate) previous: Option<Stream>,
    pub(crate) held: Vec<Token>,
}

/// What a stream is given at once.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) stream: Stream,
    pub(crate) session: &'static str,
    pub(crate) timed: bool,
    pub(crate) unstarted: bool,
    pub(crate) duration_ms: u64,
    pub(crate) messages: Vec<(Sequence, Token)>,
}

impl Model {
    /// A stream is opened, and whether it was told that its session goes on, and which leases are lost.
    pub(crate) fn connect(
        &mut self,
        connect: &Connect,
        (stream, resumed, lost): (Stream, bool, &[Token]),
        now: Time,
    ) -> Result<(), Wrong> {
        let name = connect.session;
        self.check_lost(&connect.held, lost)?;
        if connect.reset && self.sessions.contains_key(name) {
            self.lose_session(name);
        }
        for queue in connect.queues.keys() {
            self.queue_or_new(queue, Policy::DEFAULT);
        }
        let known = self.sessions.contains_key(name);
        let previous = connect.previous.filter(|_| known);
        if resumed != previous.is_some() {
            return Err(format!("{connect:?}: resumed {resumed}, known {known}"));
        }
        if !known {
            let number = self.next_place();
            let session = Session { number, grace_ms: connect.grace_ms, ..Session::default() };
            self.sessions.insert(name, session);
        }
        if let Some(named) = previous {
            self.resume(connect, named, stream, now);
        }
        let session = self.sessions.get_mut(name).expect("it is there now");
        session.grace_ms = connect.grace_ms;
        session.connections += 1;
        session.deadline = None;
        for message in self.messages.values_mut() {
            if let State::Leased(lease) = &mut message.state
                && lease.stream == stream
                && lease.deadline.is_none()
            {
                lease.run(now);
            }
        }
        let (queues, window) = (connect.queues.clone(), connect.window);
        self.consumers.insert(stream, Consumer { session: name, queues, window });
        Ok(())
    }

    /// What is lost is told, and only that; nothing has to be told of what was settled.
    fn check_lost(&self, held: &[Token], lost: &[Token]) -> Result<(), Wrong> {
        for token in held {
            let holds = self.leased().any(|(_, lease)| lease.token == *token);
            let is_told = lost.contains(token);
            let was_settled = self.settled.contains_key(token);
            if (holds && is_told) || (!holds && !is_told && !was_settled) {
                return Err(format!("{token:?}: held {holds}, told to be lost {is_told}"));
            }
        }
        Ok(())
    }

    /// What the client names goes on, on the new stream; what it does not was never received.
    fn resume(&mut self, connect: &Connect, named: Stream, stream: Stream, now: Time) {
        let session = &self.sessions[connect.session];
        let known = session.known_as.iter().find(|(_, known)| **known == named);
        let previous = known.map_or(named, |(stream, _)| *stream);
        let of_previous: Vec<_> = self
            .leased()
            .filter(|(_, lease)| lease.session == Some(connect.session) && lease.stream == previous)
            .map(|(sequence, lease)| (sequence, lease.token))
            .collect();
        let place = self.next_place();
        for (sequence, token) in of_previous {
            if !connect.held.contains(&token) {
                self.make_ready(sequence, place);
            } else if let State::Leased(lease) = &mut self.message(sequence).state {
                lease.stream = stream;
                lease.unstarted &= connect.reports_started;
            }
        }
        if self.consumers.get(&previous).is_some_and(|it| it.session == connect.session) {
            self.disconnect(previous, now);
        }
        let session = self.sessions.get_mut(connect.session).expect("it was found");
        session.broken.remove(&previous);
        session.known_as.remove(&previous);
        session.known_as.insert(stream, named);
    }

    /// Of all leases that hold.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = Token> {
        self.leased().map(|(_, lease)| lease.token)
    }

    pub(crate) fn session_names(&self) -> impl Iterator<Item = &'static str> {
        self.sessions.keys().copied()
    }

    /// A stream is gone; its leases wait for the grace of its session.
    pub(crate) fn disconnect(&mut self, stream: Stream, now: Time) {
        let Some(gone) = self.consumers.remove(&stream) else { return };
        let holds = self.outstanding(stream) != 0;
        let Some(session) = self.sessions.get_mut(gone.session) else { return };
        session.connections -= 1;
        session.touch(now);
        if holds {
            session.broken.insert(stream, now.boot_ms + session.grace_ms);
        }
    }

    /// A stream is done: what it holds is returned, uncounted.
    pub(crate) fn close(&mut self, stream: Stream, now: Time) {
        let held: Vec<_> =
            self.leased().filter(|(_, it)| it.stream == stream).map(|(it, _)| it).collect();
        let place = self.next_place();
        held.into_iter().for_each(|sequence| self.make_ready(sequence, place));
        self.disconnect(stream, now);
    }

    pub(super) fn leased(&self) -> impl Iterator<Item = (Sequence, &Lease)> {
        self.messages.iter().filter_map(|(&sequence, message)| match &message.state {
            State::Leased(lease) => Some((sequence, lease)),
            _ => None,
        })
    }

    fn outstanding(&self, stream: Stream) -> usize {
        self.leased().filter(|(_, lease)| lease.stream == stream).count()
    }

    /// A stream is given messages: the next ones of one of its queues, as many as it has room for at
    /// most.
    pub(crate) fn grant(&mut self, grant: &Grant) -> Result<(), Wrong> {
        let consumer = self.consumers.get(&grant.stream).cloned();
        let consumer = consumer.ok_or_else(|| format!("{grant:?} to nobody"))?;
        let queue = self.messages[&grant.messages[0].0].queue;
        let rank = consumer.queues.get(queue);
        let may = consumer.session == grant.session && !self.queues[queue].paused;
        let count = grant.messages.len();
        let outstanding = self.outstanding(grant.stream) + count;
        let (Some(rank), true) = (rank, may) else {
            return Err(format!("{grant:?} of {queue} to {consumer:?}"));
        };
        if consumer.window < outstanding || self.quota(queue) < count {
            return Err(format!("{grant:?} of {queue} to {consumer:?} with {outstanding}"));
        }
        let mut better = consumer.queues.iter().filter(|(_, of)| *of < rank);
        if let Some(better) = better.find_map(|(queue, _)| self.first_waiting(queue)) {
            return Err(format!("{grant:?} of {queue} to {consumer:?}, and {better} is ready"));
        }
        let mut sequences: Vec<_> = grant.messages.iter().map(|(it, _)| *it).collect();
        sequences.sort_by_key(|sequence| self.order(*sequence));
        self.check_next(queue, &sequences)?;
        let lease = Lease {
            token: [0; 20],
            duration_ms: grant.duration_ms,
            deadline: None,
            stream: grant.stream,
            session: Some(grant.session),
            timed: grant.timed,
            unstarted: grant.unstarted,
        };
        self.lease_out(queue, &grant.messages, lease)
    }

    /// Who has room waits only while there is nothing that it may have.
    pub(crate) fn check_nobody_waits(&self) -> Result<(), (Sequence, Wrong)> {
        for (stream, consumer) in &self.consumers {
            if consumer.window <= self.outstanding(*stream) {
                continue;
            }
            if let Some(sequence) = consumer.queues.keys().find_map(|it| self.first_waiting(it)) {
                let wrong = format!("{sequence} is ready, and stream {stream} has room");
                return Err((sequence, wrong));
            }
        }
        self.check_no_pull_waits()
    }

    pub(super) fn session_number(&self, name: &str) -> Option<u64> {
        self.sessions.get(name).map(|session| session.number)
    }

    /// Whether anybody takes messages from a queue as they come.
    pub(crate) fn is_consumed(&self, queue: &str) -> bool {
        let consumes = |it: &Consumer| it.queues.contains_key(queue);
        self.is_pulled(queue) || self.consumers.values().any(consumes)
    }

    /// A session or a stream whose grace is over loses its leases: one of them; whether there was one.
    pub(super) fn lose_one(&mut self, now: Time) -> bool {
        let over = |deadline: u64| deadline <= now.boot_ms;
        let deadlines = self.sessions.iter();
        let sessions = deadlines.filter_map(|(name, it)| Some((it.deadline?, it.number, *name)));
        if let Some((.., name)) = sessions.filter(|(deadline, ..)| over(*deadline)).min() {
            self.lose_session(name);
            return true;
        }
        let streams = self.sessions.iter().flat_map(|(name, session)| {
            let broken = session.broken.iter();
            broken.map(|(stream, deadline)| (*deadline, session.number, *stream, *name))
        });
        let Some((_, _, stream, name)) = streams.filter(|(it, ..)| over(*it)).min() else {
            return false;
        };
        self.crash_all(|lease| lease.session == Some(name) && lease.stream == stream);
        if let Some(session) = self.sessions.get_mut(name) {
            session.broken.remove(&stream);
        }
        true
    }

    fn lose_session(&mut self, name: &'static str) {
        self.crash_all(|lease| lease.session == Some(name));
        self.sessions.remove(name);
        self.consumers.retain(|_, consumer| consumer.session != name);
    }

    fn crash_all(&mut self, which: impl Fn(&Lease) -> bool) {
        let lost: Vec<_> =
            self.leased().filter(|(_, lease)| which(lease)).map(|(it, _)| it).collect();
        let place = self.place_of_letters();
        lost.into_iter().for_each(|sequence| self.crash(sequence, place));
    }

    /// A start: the streams are gone, and every grace begins anew.
    pub(super) fn lose_streams(&mut self, now: Time) {
        self.consumers.clear();
        for session in self.sessions.values_mut() {
            session.connections = 0;
            session.broken.clear();
            session.touch(now);
        }
        let streams: Vec<_> =
            self.leased().filter_map(|(_, lease)| Some((lease.session?, lease.stream))).collect();
        for (name, stream) in streams.into_iter().filter(|(_, stream)| *stream != 0) {
            if let Some(session) = self.sessions.get_mut(name) {
                session.broken.insert(stream, now.boot_ms + session.grace_ms);
            }
        }
    }
}
