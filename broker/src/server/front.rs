//! The ports: taken before anything else, and answering probes while the log is still recovered.

use std::net::SocketAddr;
use std::time::SystemTime;

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::info;

use super::ServeError;
use crate::clock::check_wall_clock;
use crate::config::Settings;
use crate::tls::Tls;
use crate::web::Web;

/// The listeners of a broker that does not serve yet. What answers on them ends with it.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) grpc: TcpListener,
    pub(super) grpc_addr: SocketAddr,
    pub(super) http_addr: Option<SocketAddr>,
    pub(super) tls: Option<Tls>,
    pub(super) web: Web,
    /// When the broker was started.
    pub(super) started: SystemTime,
    /// Ends what answers, and everything else that is told to end with it.
    pub(super) closing: DropGuard,
}

impl Front {
    /// Takes the ports, so that whoever mistyped one learns it before a long recovery, and begins
    /// to answer probes.
    ///
    /// # Errors
    /// Where a port cannot be had, or its certificate, and where the clock tells no date.
    pub(super) async fn open(settings: &Settings) -> Result<Self, ServeError> {
        let started = SystemTime::now();
        check_wall_clock(started)?;
        let (grpc, grpc_addr) = bind(settings.grpc_listen).await?;
        let tls = Tls::open(settings)?;
        let web = Web::default();
        let closing = CancellationToken::new();
        let mut http_addr = None;
        if let Some(address) = settings.http_listen {
            let (listener, bound) = bind(address).await?;
            http_addr = Some(bound);
            tokio::spawn(web.clone().serve(listener, closing.clone().cancelled_owned()));
        }
        info!(grpc = %grpc_addr, http = http_addr.map(|address| address.to_string()), "listening, and recovering first");
        let closing = closing.drop_guard();
        Ok(Self { grpc, grpc_addr, http_addr, tls, web, started, closing })
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let bound = TcpListener::bind(address).await;
    let listener = bound.map_err(|source| ServeError::Bind { address, source })?;
    let address = listener.local_addr().map_err(ServeError::Listener)?;
    Ok((listener, address))
}
