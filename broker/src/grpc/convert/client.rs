//! Who is connected: as clients tell it, and as operators are told.

use qbroker_proto::v1::{self, ClientInfo};
use tonic::Request;

use super::bounds;
use super::time::to_timestamp;
use crate::auth::Principal;
use crate::engine::{About, Connected};
use crate::grpc::fault::Fault;

/// Labels of one client.
const LABELS_MAX: usize = 16;
/// Bytes of all of them, keys and values.
const LABELS_BYTES_MAX: usize = 4 << 10;

/// What the transport knows of whoever calls.
pub(in crate::grpc) fn caller<T>(request: &Request<T>) -> About {
    let principal = request.extensions().get::<Principal>().map(|principal| match principal {
        Principal::Anonymous => String::new(),
        Principal::Token { id, name } if name.is_empty() => id.to_string(),
        Principal::Token { name, .. } => name.clone(),
    });
    About {
        remote_address: request.remote_addr().map(|it| it.to_string()).unwrap_or_default(),
        principal: principal.unwrap_or_default(),
        ..About::default()
    }
}

/// What a client says of itself, beside what is known of it.
pub(in crate::grpc) fn about(
    client: Option<ClientInfo>,
    caller: About,
    connect_ms: u64,
) -> Result<About, Fault> {
    let client = client.unwrap_or_default();
    bounds::text("client.client_id", &client.client_id, 256)?;
    bounds::text("client.hostname", &client.hostname, 256)?;
    bounds::text("client.sdk", &client.sdk, 64)?;
    bounds::text("client.sdk_version", &client.sdk_version, 64)?;
    if LABELS_MAX < client.labels.len() {
        let why = format!("{} labels; at most {LABELS_MAX} are allowed", client.labels.len());
        return Err(Fault::invalid("client.labels", why));
    }
    let size = client.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if LABELS_BYTES_MAX < size {
        let limit = LABELS_BYTES_MAX;
        return Err(Fault::FieldTooLarge { field: "client.labels", size, limit });
    }
    Ok(About {
        connect_ms,
        client_id: client.client_id,
        hostname: client.hostname,
        pid: client.pid,
        sdk: client.sdk,
        sdk_version: client.sdk_version,
        labels: client.labels.into_iter().collect(),
        ..caller
    })
}

/// A stream as operators see it.
pub(in crate::grpc) fn to_consumer(connected: Connected) -> v1::Consumer {
    let about = &connected.about;
    let client = ClientInfo {
        client_id: about.client_id.clone(),
        hostname: about.hostname.clone(),
        pid: about.pid,
        sdk: about.sdk.clone(),
        sdk_version: about.sdk_version.clone(),
        labels: about.labels.clone().into_iter().collect(),
    };
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    v1::Consumer {
        consumer_id: connected.id.to_string(),
        remote_address: about.remote_address.clone(),
        principal: about.principal.clone(),
        queues: connected.queues.iter().map(|queue| queue.to_string()).collect(),
        outstanding_messages: number(connected.outstanding_messages),
        max_outstanding_messages: number(connected.window.messages),
        connect_time: Some(to_timestamp(about.connect_ms)),
        client: Some(client),
        session_id: connected.session,
        outstanding_bytes: i64::try_from(connected.outstanding_bytes).unwrap_or(i64::MAX),
        draining: connected.draining,
    }
}
