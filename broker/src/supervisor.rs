//! What the broker and its supervisor tell each other: readiness, stopping, reload.

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, error, info};

use crate::auth::Access;
use crate::tls::Tls;

/// Tells systemd that the broker serves. Nothing happens where nobody asked to be told.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells systemd that the broker stops by its own will.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "cannot tell the supervisor");
    }
}

/// Reads tokens, certificate and key again at each SIGHUP. Runs until it is dropped.
///
/// # Errors
/// Where the system does not let the process listen to SIGHUP.
pub fn reload_on_hangup(
    access: Access,
    tls: Option<Tls>,
) -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    // From here on a SIGHUP no longer ends the process, whether the future runs yet or not.
    let hangups = signal(SignalKind::hangup())?;
    Ok(reload_at_each(hangups, access, tls))
}

async fn reload_at_each(mut hangups: Signal, access: Access, tls: Option<Tls>) {
    while hangups.recv().await.is_some() {
        reload(&access, tls.as_ref());
    }
}

/// Each part by itself: an error in one must not keep the other from being renewed.
fn reload(access: &Access, tls: Option<&Tls>) {
    match access.reload() {
        Ok(tokens) => info!(tokens, "read the tokens again"),
        Err(error) => error!(%error, "cannot read the tokens again: the old ones stay accepted"),
    }
    match tls.map(Tls::reload) {
        None => {}
        Some(Ok(())) => info!("read the certificate again"),
        Some(Err(error)) => error!(%error, "cannot read the certificate again: the old one stays"),
    }
}
