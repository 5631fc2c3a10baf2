//! A connection as a network may treat it: slowed, cut at a byte, or swallowed without a word.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    Broker,
    Client,
}

/// What a network does to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Both sides get a reset; what they had received and not read is gone.
    Reset,
    /// Both sides are closed in order, in the middle of whatever was being said.
    Close,
    /// Nothing passes any more in either direction, and nobody is told before the front is cut.
    Silence,
    /// The broker's side is reset; the client is not told before the front is cut.
    HalfOpen,
}

/// Trouble at a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// In this direction ...
    pub toward: Toward,
    /// ... so many bytes still pass, and not one more.
    pub after: u64,
    pub trouble: Trouble,
}

/// How fast bytes pass: so many at once, and a pause before each time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub bytes: usize,
    pub pause: Duration,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// Counted from the connection's first byte.
    pub strike: Option<Strike>,
    pub pace: Option<Pace>,
}

/// What passes at once where nobody asks for less.
const BYTES: usize = 16 << 10;

/// One connection, passed on byte by byte.
#[derive(Debug)]
pub(crate) struct Line {
    /// Toward the broker, toward the client.
    passed: [AtomicU64; 2],
    /// Counted from the connection's first byte.
    strike: Mutex<Option<Strike>>,
    /// What is to come at once, and that it is.
    now: Mutex<Option<Trouble>>,
    at_once: Notify,
    pace: Option<Pace>,
    /// What the broker says is kept back.
    muted: watch::Receiver<bool>,
}

impl Line {
    pub(crate) fn new(way: Way, muted: watch::Receiver<bool>) -> Self {
        let (now, at_once) = (Mutex::default(), Notify::new());
        let (passed, strike) = (Default::default(), Mutex::new(way.strike));
        Self { passed, strike, now, at_once, pace: way.pace, muted }
    }

    /// Bytes that have passed.
    pub(crate) fn passed(&self, toward: Toward) -> u64 {
        self.passed[toward as usize].load(Ordering::SeqCst)
    }

    /// Lets trouble come, counted from the bytes that have passed by now; at once for none.
    pub(crate) fn strike(&self, strike: Strike) {
        if strike.after == 0 {
            *self.now.lock() = Some(strike.trouble);
            return self.at_once.notify_one();
        }
        let mut planned = self.strike.lock();
        let after = self.passed(strike.toward) + strike.after;
        *planned = Some(Strike { after, ..strike });
    }

    /// Whether the trouble that was asked for has not come yet.
    pub(crate) fn is_to_be_struck(&self) -> bool {
        self.strike.lock().is_some()
    }

    /// Passes everything on until one side has enough, trouble comes, or the front is cut.
    pub(crate) async fn carry(
        &self,
        mut client: TcpStream,
        mut broker: TcpStream,
        mut cut: watch::Receiver<u64>,
    ) {
        let trouble = tokio::select! {
            trouble = self.pass_both(&mut client, &mut broker) => trouble,
            () = self.at_once.notified() => *self.now.lock(),
            _ = cut.changed() => None,
        };
        // A socket that is gone already cannot be reset any more, and need not be.
        match trouble {
            None | Some(Trouble::Close) => {}
            Some(Trouble::Reset) => drop((client.set_zero_linger(), broker.set_zero_linger())),
            Some(Trouble::Silence) => drop(cut.changed().await),
            Some(Trouble::HalfOpen) => {
                drop(broker.set_zero_linger());
                drop(broker);
                drop(cut.changed().await);
            }
        }
    }

    async fn pass_both(&self, client: &mut TcpStream, broker: &mut TcpStream) -> Option<Trouble> {
        let (from_client, to_client) = client.split();
        let (from_broker, to_broker) = broker.split();
        let to_broker = self.pass(Toward::Broker, from_client, to_broker);
        let to_client = self.pass(Toward::Client, from_broker, to_client);
        tokio::pin!(to_broker, to_client);
        // One side that has ended in order may still listen.
        tokio::select! {
            trouble = &mut to_broker => match trouble {
                None => to_client.await,
                trouble => trouble,
            },
            trouble = &mut to_client => match trouble {
                None => to_broker.await,
                trouble => trouble,
            },
        }
    }

    /// Passes bytes one way; `None` once they end in order.
    async fn pass(
        &self,
        toward: Toward,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> Option<Trouble> {
        let mut buffer = vec![0; self.pace.map_or(BYTES, |pace| pace.bytes)];
        loop {
            let read = match from.read(&mut buffer).await {
                Ok(0) => break,
                Ok(read) => read,
                Err(_) => return Some(Trouble::Reset),
            };
            if let Some(pace) = self.pace {
                tokio::time::sleep(pace.pause).await;
            }
            if toward == Toward::Client {
                // Without a front there is nobody to keep anything back.
                drop(self.muted.clone().wait_for(|muted| !muted).await);
            }
            let (admitted, trouble) = self.admit(toward, read);
            if to.write_all(&buffer[..admitted]).await.is_err() {
                return Some(Trouble::Reset);
            }
            if trouble.is_some() {
                return trouble;
            }
        }
        // The other side may be gone, which ends it as well.
        drop(to.shutdown().await);
        None
    }

    /// How many of these bytes pass, and what comes after them.
    fn admit(&self, toward: Toward, bytes: usize) -> (usize, Option<Trouble>) {
        let mut planned = self.strike.lock();
        let passed = self.passed(toward);
        let mut admitted = bytes as u64;
        let struck = planned.take_if(|strike| {
            strike.toward == toward && strike.after < passed.saturating_add(admitted)
        });
        if let Some(strike) = struck {
            admitted = strike.after.saturating_sub(passed);
        }
        self.passed[toward as usize].fetch_add(admitted, Ordering::SeqCst);
        drop(planned);
        let admitted = usize::try_from(admitted).expect("at most what was read");
        (admitted, struck.map(|strike| strike.trouble))
    }
}
