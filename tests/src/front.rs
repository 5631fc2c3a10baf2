//! An address that stays while the brokers behind it come and go.
//!
//! Clients know one address, brokers take a free port at each start. Two birds with one stone: a
//! port that was free a moment ago may be somebody else's now, and connections can be cut here.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::network::{Line, Strike, Toward, Way};

/// Passes connections on to the broker of the moment, byte by byte.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Counts cuts; every connection that is open at one is closed.
    cuts: watch::Sender<u64>,
    /// What brokers say is kept back.
    muted: watch::Sender<bool>,
    listening: JoinHandle<()>,
}

struct Shared {
    target: Mutex<Option<SocketAddr>>,
    /// What is to become of the next connection.
    ways: Mutex<Box<dyn FnMut() -> Way + Send>>,
    /// Every connection there has been.
    lines: Mutex<Vec<Arc<Line>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("target", &self.target)
            .field("lines", &self.lines)
            .finish_non_exhaustive()
    }
}

impl Front {
    /// Listens on a free port of loopback; leads nowhere yet.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            target: Mutex::default(),
            ways: Mutex::new(Box::new(Way::default)),
            lines: Mutex::default(),
        });
        let (cuts, muted) = (watch::Sender::new(0), watch::Sender::new(false));
        let listening = tokio::spawn(listen(listener, shared.clone(), cuts.clone(), muted.clone()));
        Self { address, shared, cuts, muted, listening }
    }

    /// A front that leads to this broker.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn before(broker: SocketAddr) -> Self {
        let front = Self::open().await;
        front.lead_to(broker);
        front
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Leads to this broker from now on.
    pub fn lead_to(&self, broker: SocketAddr) {
        *self.shared.target.lock() = Some(broker);
    }

    /// Leads nowhere: whoever connects is turned away.
    pub fn lead_nowhere(&self) {
        *self.shared.target.lock() = None;
    }

    /// Keeps back what brokers say from now on, on every connection; they are heard as ever.
    pub fn mute(&self) {
        self.muted.send_replace(true);
    }

    /// Cuts every connection there is, without a word to either side.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// What becomes of connections that are made from now on.
    pub fn choose_ways(&self, ways: impl FnMut() -> Way + Send + 'static) {
        *self.shared.ways.lock() = Box::new(ways);
    }

    /// The next connection meets this; those after it are left alone.
    pub fn strike_next(&self, strike: Strike) {
        let mut strike = Some(strike);
        self.choose_ways(move || Way { strike: strike.take(), pace: None });
    }

    /// Lets trouble come to the latest connection, counted from its bytes by now; to the first, where
    /// nobody has come through yet.
    pub fn strike(&self, strike: Strike) {
        let latest = self.shared.lines.lock().last().cloned();
        match latest {
            Some(line) => line.strike(strike),
            None => self.strike_next(strike),
        }
    }

    /// Bytes that have passed over all connections there have been.
    pub fn passed(&self, toward: Toward) -> u64 {
        self.shared.lines.lock().iter().map(|line| line.passed(toward)).sum()
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.shared.lines.lock().len()
    }

    /// Whether trouble that was asked for has not come yet.
    pub fn is_to_strike(&self) -> bool {
        self.shared.lines.lock().iter().any(|line| line.is_to_be_struck())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.listening.abort();
        self.cut();
    }
}

async fn listen(
    listener: TcpListener,
    shared: Arc<Shared>,
    cuts: watch::Sender<u64>,
    muted: watch::Sender<bool>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let target = *shared.target.lock();
        let Some(broker) = target else { continue };
        let way = (shared.ways.lock())();
        let line = Arc::new(Line::new(way, muted.subscribe()));
        shared.lines.lock().push(line.clone());
        tokio::spawn(pass_on(client, broker, line, cuts.subscribe()));
    }
}

async fn pass_on(
    client: TcpStream,
    broker: SocketAddr,
    line: Arc<Line>,
    cut: watch::Receiver<u64>,
) {
    // A broker that is gone is like one that never was: the client learns it by the closed
    // connection.
    let Ok(broker) = TcpStream::connect(broker).await else { return };
    drop((client.set_nodelay(true), broker.set_nodelay(true)));
    line.carry(client, broker, cut).await;
}
