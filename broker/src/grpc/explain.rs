//! Gives a reason to what the transport refuses before a service sees it.

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use tonic::{Code, Status};

use super::fault::{Fault, REASON_TRAILER};

/// Answers as `next` does, and in the protocol's own words where that answer has no reason: for a
/// request that cannot be decoded, and for a service that comes later.
pub(super) async fn explain(request: Request, next: Next) -> Response {
    let later = later(request.uri().path());
    let response = next.run(request).await;
    match unexplained(response.headers(), later) {
        None => response,
        Some(fault) => fault.to_status().into_http::<Body>(),
    }
}

/// The feature of a service that this version does not have.
fn later(path: &str) -> Option<&'static str> {
    match path.split('/').nth(1)? {
        "qbroker.v1.ScheduleService" => Some("schedule"),
        _ => None,
    }
}

/// Why a call failed at once without a reason; the protocol's own refusals have theirs.
fn unexplained(headers: &HeaderMap, later: Option<&'static str>) -> Option<Fault> {
    headers.get("grpc-status").filter(|status| *status != "0")?;
    if headers.contains_key(REASON_TRAILER) {
        return None;
    }
    let status = Status::from_header_map(headers)?;
    match (status.code(), later) {
        (Code::Unimplemented, Some(feature)) => {
            Some(Fault::Unsupported { field: "this call", feature })
        }
        (Code::Internal | Code::OutOfRange, _) => Some(Fault::unreadable(&status)),
        _ => None,
    }
}
