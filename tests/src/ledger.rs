//! The account of what clients were told, and of every broken promise.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use parking_lot::Mutex;
use qbroker_client::{Error, Leased};
use tokio::sync::watch;

use crate::patiently;

/// Keeps account over all clients of a test. What contradicts a promise is collected rather than
/// thrown, so that it is not lost in somebody's task; [`Ledger::check`] throws it.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<State>,
    /// Counts everything that was told: confirms, deliveries, settlements.
    progress: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    messages: HashMap<String, Account>,
    names: HashMap<u64, String>,
    broken: Vec<String>,
}

/// What is known of one message.
#[derive(Debug, Default)]
struct Account {
    /// Its place in the log, once anybody was told of it.
    sequence: Option<u64>,
    confirmed: bool,
    /// A consumer has it in hand.
    running: bool,
    /// Failures that were handed in: as many as the next delivery must name.
    nacks: u32,
    /// How it ended, as handed in; and whether that was confirmed.
    end: Option<End>,
    end_confirmed: bool,
}

/// The outcomes after which a message never comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Acked,
    DeadLettered,
}

/// What a consumer does with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    End(End),
    Nack,
    Release,
}

/// What came of a whole run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub stored: u64,
    pub acked: u64,
    pub nacked: u64,
    pub dead: BTreeSet<String>,
}

/// A name that says how long the message's payload is, so that every copy can be checked.
pub fn name(publisher: &str, number: u64, bytes: usize) -> String {
    format!("{publisher}-{number}-{bytes}")
}

/// The payload of the message of this name.
///
/// # Panics
/// When no [`name`] is like this.
pub fn payload(name: &str) -> Bytes {
    let bytes: usize = name.rsplit('-').next().and_then(|bytes| bytes.parse().ok()).unwrap();
    let mut payload = format!("{name}\n").into_bytes();
    let pattern = payload.clone();
    payload.extend(pattern.iter().cycle().take(bytes));
    payload.into()
}

/// The name of the message that has this payload.
fn name_of(payload: &[u8]) -> Option<&str> {
    let end = payload.iter().position(|byte| *byte == b'\n')?;
    std::str::from_utf8(&payload[..end]).ok()
}

impl Ledger {
    /// A message is about to be published: it may or may not be stored from here on.
    pub fn offered(&self, name: &str) {
        let before = self.state.lock().messages.insert(name.to_owned(), Account::default());
        assert!(before.is_none(), "the test gives every name once");
    }

    /// The broker said that the message is on disk, and where.
    pub fn confirmed(&self, name: &str, sequence: Option<u64>) {
        let mut state = self.state.lock();
        state.place(name, sequence);
        state.messages.get_mut(name).expect("it was offered").confirmed = true;
        drop(state);
        self.went_on();
    }

    /// A message came; its name, where it is one of ours.
    pub fn delivered(&self, leased: &Leased) -> Option<String> {
        let mut state = self.state.lock();
        let name = name_of(&leased.message.payload).unwrap_or_default().to_owned();
        let Some(account) = state.messages.get_mut(&name) else {
            state.broken.push(format!("delivered, and never published: {leased:?}"));
            return None;
        };
        let (end, confirmed, nacks) = (account.end, account.end_confirmed, account.nacks);
        if std::mem::replace(&mut account.running, true) {
            state.broken.push(format!("{name} came again while it was being worked on"));
        }
        if leased.message.payload != payload(&name) {
            state.broken.push(format!("{name} has another payload than it was published with"));
        }
        if let Some(end) = end {
            let told = if confirmed { "was confirmed" } else { "was on its way" };
            state.broken.push(format!("{name} came again after its end ({end:?}) {told}"));
        }
        if (leased.failures, leased.crashes, leased.attempt) != (nacks, 0, nacks + 1) {
            let Leased { attempt, failures, crashes, .. } = leased;
            state.broken.push(format!(
                "{name} was nacked {nacks} times, but is told to be attempt {attempt} after \
                 {failures} failures and {crashes} crashes"
            ));
        }
        state.place(&name, Some(leased.message.sequence));
        drop(state);
        self.went_on();
        Some(name)
    }

    /// A verdict is about to be handed in.
    pub fn settling(&self, name: &str, verdict: Verdict) {
        let mut state = self.state.lock();
        let account = state.messages.get_mut(name).expect("it was offered");
        account.running = false;
        match verdict {
            Verdict::End(end) => account.end = Some(end),
            Verdict::Nack => account.nacks += 1,
            Verdict::Release => {}
        }
    }

    /// The broker answered a verdict.
    pub fn settled(&self, name: &str, verdict: Verdict, answer: Result<(), Error>) {
        let mut state = self.state.lock();
        match answer {
            // No lease of these tests may end: their consumers come back in time.
            Err(error) => {
                state.broken.push(format!("{name} was not settled ({verdict:?}): {error}"))
            }
            Ok(()) => {
                let account = state.messages.get_mut(name).expect("it was offered");
                account.end_confirmed |= matches!(verdict, Verdict::End(_));
            }
        }
        drop(state);
        self.went_on();
    }

    /// Something else that must not be.
    pub fn broken(&self, what: String) {
        self.state.lock().broken.push(what);
        self.went_on();
    }

    /// Waits until so many more things were told.
    ///
    /// # Panics
    /// When nothing goes on.
    pub async fn wait_for(&self, more: u64) {
        let mut progress = self.progress.subscribe();
        let target = *progress.borrow() + more;
        let reached = progress.wait_for(|told| target <= *told);
        drop(patiently("the clients' work", reached).await.expect("the ledger lives"));
    }

    /// Fails the test where a promise was broken.
    ///
    /// # Panics
    /// Just then.
    pub fn check(&self) {
        let state = self.state.lock();
        let first: Vec<_> = state.broken.iter().take(10).collect();
        assert!(state.broken.is_empty(), "{} broken promises: {first:#?}", state.broken.len());
    }

    /// What came of it all, once everything offered is confirmed and has ended.
    ///
    /// # Panics
    /// Where that is not so.
    pub fn totals(&self) -> Totals {
        self.check();
        let state = self.state.lock();
        let mut totals = Totals::default();
        for (name, account) in &state.messages {
            assert!(account.confirmed, "{name} was never confirmed: {account:?}");
            assert!(account.end_confirmed, "{name} is lost, it never ended: {account:?}");
            totals.stored += 1;
            totals.nacked += u64::from(account.nacks);
            match account.end {
                Some(End::Acked) => totals.acked += 1,
                _ => {
                    totals.dead.insert(name.clone());
                }
            }
        }
        totals
    }

    fn went_on(&self) {
        self.progress.send_modify(|told| *told += 1);
    }
}

impl State {
    /// A name has one place, and a place one name: otherwise a message is stored twice.
    fn place(&mut self, name: &str, sequence: Option<u64>) {
        let Some(sequence) = sequence else { return };
        let account = self.messages.get_mut(name).expect("it was offered");
        match account.sequence.replace(sequence) {
            Some(other) if other != sequence => {
                self.broken.push(format!("{name} is stored twice, at {other} and at {sequence}"));
            }
            _ => {}
        }
        match self.names.insert(sequence, name.to_owned()) {
            Some(other) if other != name => {
                self.broken.push(format!("{other} and {name} are both at {sequence}"));
            }
            _ => {}
        }
    }
}
