//! Takes connections off a listener: with TLS or without, and never more than allowed.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::{debug, warn};

use crate::tls::Tls;

/// How long a client may take for its handshake: one that says nothing must not hold a place.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client of HTTP/2 says first (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;

/// How long to wait when the system refuses (too many open files, mostly) before asking again.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// Connections accepted and not yet picked up; they pile up only while the runtime is busy.
const BACKLOG: usize = 64;

/// How many connections there are and were.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    accepted: AtomicU64,
    closed: AtomicU64,
    over_limit: AtomicU64,
    handshakes_failed: AtomicU64,
}

impl ConnectionCounts {
    /// Accepted since the start; those in a handshake included.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Open now.
    pub fn open(&self) -> u64 {
        // Read in this order the difference cannot be negative.
        let closed = self.closed.load(Ordering::Acquire);
        self.accepted().saturating_sub(closed)
    }

    /// Closed at once since the start, because there were too many.
    pub fn over_limit(&self) -> u64 {
        self.over_limit.load(Ordering::Relaxed)
    }

    /// TLS handshakes that failed or took too long since the start.
    pub fn handshakes_failed(&self) -> u64 {
        self.handshakes_failed.load(Ordering::Relaxed)
    }
}

/// Accepts connections until the returned stream is dropped, which closes the listener.
///
/// At most `connections_max` are open at once; one beyond is closed as soon as it comes, so that
/// its client learns at once instead of waiting. Handshakes run beside each other.
pub fn accept(
    listener: TcpListener,
    tls: Option<Tls>,
    connections_max: u32,
    counts: Arc<ConnectionCounts>,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let places = Arc::new(Semaphore::new(connections_max as usize));
    let acceptor = Acceptor { tls, places, counts, sender };
    tokio::spawn(acceptor.run(listener));
    ReceiverStream::new(receiver)
}

struct Acceptor {
    tls: Option<Tls>,
    places: Arc<Semaphore>,
    counts: Arc<ConnectionCounts>,
    sender: mpsc::Sender<io::Result<Connection>>,
}

impl Acceptor {
    async fn run(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.sender.closed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer).await,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
        }
    }

    async fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() else {
            let closed = self.counts.over_limit.fetch_add(1, Ordering::Relaxed) + 1;
            // Told at each doubling: a flood must not fill the log.
            if closed.is_power_of_two() {
                warn!(%peer, closed, "too many connections: closed a new one (max-connections)");
            }
            return;
        };
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        let place = Place { _permit: permit, counts: Arc::clone(&self.counts) };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "the connection ended before it began");
            return;
        }
        let info = TcpConnectInfo { local_addr: stream.local_addr().ok(), remote_addr: Some(peer) };
        match &self.tls {
            Some(tls) => self.handshake(tls, stream, info, place),
            None => {
                let connection = Connection::new(Io::Plain(stream), info, place);
                // Fails only while the server goes away: the connection ends with it.
                self.sender.send(Ok(connection)).await.ok();
            }
        }
    }

    fn handshake(&self, tls: &Tls, stream: TcpStream, info: TcpConnectInfo, place: Place) {
        let acceptor = TlsAcceptor::from(tls.config());
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
            let failure = match shaken {
                Ok(Ok(stream)) => {
                    let io = Io::Tls(Box::new(stream));
                    // As above: nobody is left to take it.
                    sender.send(Ok(Connection::new(io, info, place))).await.ok();
                    return;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it took too long".to_owned(),
            };
            place.counts.handshakes_failed.fetch_add(1, Ordering::Relaxed);
            debug!(peer = ?info.remote_addr, failure, "a TLS handshake failed");
        });
    }
}

/// An open connection. It counts against the limit until it is dropped.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    info: TcpConnectInfo,
    /// Until its client has said what it speaks.
    greeting: Option<Greeting>,
    _place: Place,
}

/// The first bytes of a client: what follows has keepalives of its own.
#[derive(Debug)]
struct Greeting {
    missing: usize,
    ends: Pin<Box<Sleep>>,
}

impl Greeting {
    fn new() -> Self {
        Self { missing: PREFACE_BYTES, ends: Box::pin(tokio::time::sleep(HANDSHAKE_TIMEOUT)) }
    }
}

impl Connection {
    fn new(io: Io, info: TcpConnectInfo, place: Place) -> Self {
        Self { io, info, greeting: Some(Greeting::new()), _place: place }
    }
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

#[derive(Debug)]
struct Place {
    _permit: OwnedSemaphorePermit,
    counts: Arc<ConnectionCounts>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counts.closed.fetch_add(1, Ordering::Release);
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, greeting, .. } = self.get_mut();
        let before = buffer.filled().len();
        let read = match io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        let Some(waiting) = greeting else { return read };
        waiting.missing = waiting.missing.saturating_sub(buffer.filled().len() - before);
        if waiting.missing == 0 {
            *greeting = None;
        } else if read.is_pending() && waiting.ends.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, buffer),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_stream::StreamExt as _;

    type Accepted = ReceiverStream<io::Result<Connection>>;

    async fn listen(tls: Option<Tls>, max: u32) -> (SocketAddr, Accepted, Arc<ConnectionCounts>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Arc::new(ConnectionCounts::default());
        (address, accept(listener, tls, max, Arc::clone(&counts)), counts)
    }

    #[tokio::test]
    async fn a_connection_beyond_the_limit_is_closed_and_a_place_comes_back() {
        let (address, mut accepted, counts) = listen(None, 1).await;
        let _first = TcpStream::connect(address).await.unwrap();
        let held = accepted.next().await.unwrap().unwrap();
        assert_eq!(counts.open(), 1);
        let mut second = TcpStream::connect(address).await.unwrap();
        assert_eq!(second.read(&mut [0; 1]).await.unwrap(), 0, "the server closes it");
        assert_eq!((counts.over_limit(), counts.open()), (1, 1));
        drop(held);
        assert_eq!(counts.open(), 0);
        let third = TcpStream::connect(address).await.unwrap();
        let held = accepted.next().await.unwrap().unwrap();
        assert_eq!(held.connect_info().remote_addr, third.local_addr().ok());
    }

    #[tokio::test]
    async fn who_does_not_say_what_it_speaks_in_time_loses_its_place() {
        let (address, mut accepted, _) = listen(None, 9).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut server = accepted.next().await.unwrap().unwrap();
        let over = Box::pin(tokio::time::sleep(Duration::ZERO));
        server.greeting.as_mut().expect("it waits for its client").ends = over;
        client.write_all(b"PRI * HTT").await.unwrap();
        let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);

        let mut client = TcpStream::connect(address).await.unwrap();
        let mut server = accepted.next().await.unwrap().unwrap();
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        server.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap();
        assert!(server.greeting.is_none(), "it may be silent from then on");
    }

    #[tokio::test]
    async fn dropping_the_stream_closes_the_listener() {
        let (address, accepted, _) = listen(None, 9).await;
        drop(accepted);
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn tls_carries_bytes_and_speaks_h2_only() {
        let (settings, _folder) = crate::tls::tests::settings_with_pair();
        let cert = CertificateDer::from_pem_file(settings.tls_cert.as_ref().unwrap()).unwrap();
        let tls = Tls::open(&settings).unwrap();
        let (address, mut accepted, counts) = listen(tls, 9).await;

        // Somebody who speaks no TLS fails alone.
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        stranger.read_to_end(&mut Vec::new()).await.unwrap();

        let mut client = connect_tls(address, cert).await.unwrap();
        assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut server = accepted.next().await.unwrap().unwrap();
        client.write_all(b"ping").await.unwrap();
        client.flush().await.unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        assert_eq!(counts.handshakes_failed(), 1);
        assert_eq!(counts.accepted(), 2);
    }

    async fn connect_tls(
        address: SocketAddr,
        trusted: CertificateDer<'static>,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost").unwrap();
        connector.connect(name, TcpStream::connect(address).await?).await
    }
}
