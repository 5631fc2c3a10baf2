//! Canceling messages that wait, by their ids.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use qbroker_proto::v1::admin_service_client::AdminServiceClient;
use qbroker_proto::v1::filter_term::Kind;
use qbroker_proto::v1::{
    DeleteMessagesRequest, FilterTerm, IdList, MessageFilter, Operation, OperationState,
};
use tonic::Code;

use super::figure::{Figure, Unit};
use super::percentiles::milliseconds;
use crate::samples::histogram;
use crate::system::Fallible;

/// Milliseconds that a cancel may take.
const CANCEL_MS_MAX: f64 = 5.0;

/// Cancels one message after the other; how long the slowest took, or why that cannot be known: a
/// broker that does not offer it says so.
pub(crate) async fn cancel(
    broker: SocketAddr,
    queue: &str,
    ids: impl Iterator<Item = String>,
) -> Fallible<Result<Figure, String>> {
    let mut admin = AdminServiceClient::connect(format!("http://{broker}")).await?;
    let mut times = histogram();
    for id in ids {
        let begin = Instant::now();
        let answer = match admin.delete_messages(request(queue, &id)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => {
                return Ok(Err(format!("cancel by id: the broker says: {}", status.message())));
            }
            Err(status) => return Err(status).with_context(|| format!("canceling {id}")),
        };
        times.record(u64::try_from(begin.elapsed().as_nanos())?)?;
        is_done(&answer.operation.unwrap_or_default())
            .with_context(|| format!("canceling {id}"))?;
    }
    let most = milliseconds(times.max());
    let figure = Figure::new("cancel by id, most", most, Unit::Milliseconds);
    Ok(Ok(figure.in_flight(1).at_most(CANCEL_MS_MAX)))
}

fn request(queue: &str, id: &str) -> DeleteMessagesRequest {
    let ids = IdList { ids: vec![id.to_owned()] };
    let terms = vec![FilterTerm { kind: Some(Kind::MessageIds(ids)) }];
    let filter = Some(MessageFilter { terms, ..MessageFilter::default() });
    DeleteMessagesRequest { queue: queue.to_owned(), filter, validate_only: false }
}

/// The answer counts only if the message is gone when it comes.
fn is_done(operation: &Operation) -> Fallible<()> {
    ensure!(
        operation.state() == OperationState::Succeeded && operation.done == 1,
        "not deleted when it was answered: {operation:?}"
    );
    Ok(())
}
