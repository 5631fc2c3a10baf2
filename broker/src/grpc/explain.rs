//! Gives a reason to what the transport refuses before a service sees it.

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use tonic::{Code, Status};

use super::fault::{Fault, REASON_TRAILER};

/// Answers as `next` does, and in the protocol's own words where that answer has no reason: for a
/// request that cannot be decoded.
pub(super) async fn explain(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    match unexplained(response.headers()) {
        None => response,
        Some(fault) => fault.to_status().into_http::<Body>(),
    }
}

/// Why a call failed at once without a reason; the protocol's own refusals have theirs.
fn unexplained(headers: &HeaderMap) -> Option<Fault> {
    headers.get("grpc-status").filter(|status| *status != "0")?;
    if headers.contains_key(REASON_TRAILER) {
        return None;
    }
    let status = Status::from_header_map(headers)?;
    let is_of_the_decoder = matches!(status.code(), Code::Internal | Code::OutOfRange);
    is_of_the_decoder.then(|| Fault::unreadable(&status))
}
