//! An address that stays while the brokers behind it come and go.
//!
//! Clients know one address, brokers take a free port at each start. Two birds with one stone: a
//! port that was free a moment ago may be somebody else's now, and connections can be cut here.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Passes connections on to the broker of the moment, byte by byte.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    /// Counts cuts; every connection that is open at one is closed.
    cuts: watch::Sender<u64>,
    listening: JoinHandle<()>,
}

impl Front {
    /// Listens on a free port of loopback; leads nowhere yet.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let target: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let (cuts, _) = watch::channel(0);
        let listening = tokio::spawn(listen(listener, target.clone(), cuts.clone()));
        Self { address, target, cuts, listening }
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Leads to this broker from now on.
    pub fn lead_to(&self, broker: SocketAddr) {
        *self.target.lock() = Some(broker);
    }

    /// Leads nowhere: whoever connects is turned away.
    pub fn lead_nowhere(&self) {
        *self.target.lock() = None;
    }

    /// Cuts every connection there is, without a word to either side.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
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
    target: Arc<Mutex<Option<SocketAddr>>>,
    cuts: watch::Sender<u64>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let target = *target.lock();
        if let Some(broker) = target {
            tokio::spawn(pass_on(client, broker, cuts.subscribe()));
        }
    }
}

async fn pass_on(mut client: TcpStream, broker: SocketAddr, mut cut: watch::Receiver<u64>) {
    // A broker that is gone is like one that never was: the client learns it by the closed
    // connection.
    let Ok(mut broker) = TcpStream::connect(broker).await else { return };
    drop((client.set_nodelay(true), broker.set_nodelay(true)));
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut broker) => {}
        _ = cut.changed() => {}
    }
}
