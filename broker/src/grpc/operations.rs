//! Work on many messages: begun, counted beforehand, looked at, ended.

use qbroker_proto::v1::*;
use qbroker_storage::Lsn;

use super::Context;
use super::convert::{filter, operation};
use super::fault::{Fault, flat};
use super::listing;
use crate::engine::Core;
use crate::queue::index::Index as _;
use crate::queue::refused::Refused;
use crate::queue::{StartOperation, Work};

/// Messages that are looked at to count what matches; then what was counted is told.
const COUNTED_MAX: u64 = 200_000;

/// Begins to delete what a filter means, or counts it.
pub(super) async fn delete(
    context: &Context,
    request: DeleteMessagesRequest,
) -> Result<Option<Operation>, Fault> {
    let DeleteMessagesRequest { queue, filter, validate_only, max_rate, limit } = request;
    let work = Work::Delete;
    start(context, (queue, filter, work, max_rate, limit), validate_only).await
}

/// Begins to move what a filter means, or counts it.
pub(super) async fn move_messages(
    context: &Context,
    request: MoveMessagesRequest,
) -> Result<Option<Operation>, Fault> {
    let MoveMessagesRequest {
        source_queue,
        filter,
        destination_queue: destination,
        reset_attempts,
        max_rate,
        limit,
        validate_only,
    } = request;
    let work = Work::Move { destination, reset_attempts };
    start(context, (source_queue, filter, work, max_rate, limit), validate_only).await
}

/// Queue, filter, work, rate and limit.
type Asked = (String, Option<MessageFilter>, Work, f64, i64);

async fn start(
    context: &Context,
    (queue, filter, work, max_rate, limit): Asked,
    validate_only: bool,
) -> Result<Option<Operation>, Fault> {
    context.check_running()?;
    let needed = || Fault::invalid("filter", "it is not set; \"all\" means every message");
    let filter = filter::filter(filter.ok_or_else(needed)?)?;
    let rate = operation::rate(max_rate)?;
    let limit =
        u64::try_from(limit).map_err(|_| Fault::invalid("limit", "it must not be negative"))?;
    let start = StartOperation { queue, filter, work, rate, limit };
    if validate_only {
        return count(context, &start, COUNTED_MAX).await.map(Some);
    }
    let id = flat(context.engine.start_operation(&start).await)?;
    get(context, &operation::id(id)).await
}

/// What would be done, as if it were; running, where there may be more than was looked at.
async fn count(
    context: &Context,
    start: &StartOperation,
    examined_max: u64,
) -> Result<Operation, Fault> {
    let engine = &context.engine;
    let checked = |core: &Core| {
        let queue = core.queue(&start.queue)?;
        if let Work::Move { destination, .. } = &start.work {
            core.check_destination(&start.queue, destination)?;
        }
        Ok::<_, Refused>((queue.id(), core.index().counts(queue.id()).of(start.filter.states())))
    };
    let (queue, held) = engine.ask(checked).await??;
    let (counted, is_all) = match start.filter.is_of_states() {
        true => (held, true),
        false => engine.count(queue, &start.filter, examined_max).await?,
    };
    let counted = if start.limit == 0 { counted } else { counted.min(start.limit) };
    let started = start.started(queue, held, engine.clock().now().wall_ms);
    Ok(operation::counted(&started, counted, is_all))
}

/// One operation.
pub(super) async fn get(context: &Context, id: &str) -> Result<Option<Operation>, Fault> {
    let id = operation::parse_id(id)?;
    let found = |core: &Core| {
        let found = core.operation(id).map(|it| operation::to_wire(id, it));
        found.ok_or(Refused::OperationNotFound(id))
    };
    Ok(Some(context.engine.ask(found).await??))
}

/// Ends an operation where it is.
pub(super) async fn cancel(context: &Context, id: &str) -> Result<Option<Operation>, Fault> {
    let lsn = operation::parse_id(id)?;
    flat(context.engine.call(|core, now, out| core.cancel_operation(lsn, now, out)).await)?;
    get(context, id).await
}

/// A page of operations, the latest first.
pub(super) async fn list(
    context: &Context,
    request: ListOperationsRequest,
) -> Result<ListOperationsResponse, Fault> {
    let size = listing::page_size(request.page_size)?;
    let question = ["operations"];
    let before = match request.page_token.as_str() {
        "" => Lsn(u64::MAX),
        token => operation::parse_id(listing::from_token(&question, token)?)
            .map_err(|_| Fault::invalid("page_token", "it is not the token of such a call"))?,
    };
    let page = |core: &Core| {
        let older = core.operations().filter(|(id, _)| *id < before).take(size + 1);
        older.map(|(id, it)| operation::to_wire(id, it)).collect::<Vec<_>>()
    };
    let (operations, more) = listing::page(context.engine.ask(page).await?, size);
    let last = operations.last().filter(|_| more);
    let token = |last: &Operation| listing::to_token(&question, &last.operation_id);
    let next_page_token = last.map(token).unwrap_or_default();
    Ok(ListOperationsResponse { operations, next_page_token })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::stage::Stage;
    use crate::queue::filter::{Filter, Is};

    #[tokio::test]
    async fn a_count_that_has_looked_at_as_many_as_it_may_is_running() {
        let mut stage = Stage::set();
        // A step looks at 256.
        for _ in 0..257 {
            stage.publish("q");
        }
        stage.write();
        let filter = Filter::of(Is::PublishedAfter(0));
        let (queue, work) = ("q".to_owned(), Work::Delete);
        let start = StartOperation { queue, filter, work, rate: 0, limit: 0 };
        let some = count(&stage.context, &start, 256).await.unwrap();
        assert_eq!((some.state(), some.matched), (OperationState::Running, 256));
        let all = count(&stage.context, &start, 257).await.unwrap();
        assert_eq!((all.state(), all.matched), (OperationState::Succeeded, 257));
        assert_eq!(COUNTED_MAX, 200_000);
    }
}
