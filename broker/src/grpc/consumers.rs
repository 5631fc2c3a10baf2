//! Consumers: listed, and ended by operators.

use qbroker_proto::v1::{DisconnectConsumerRequest, ListConsumersRequest, ListConsumersResponse};
use tracing::info;

use super::convert::client;
use super::fault::{Fault, flat};
use super::listing;
use crate::engine::Engine;
use crate::queue::ids::ConsumerId;
use crate::queue::policy;

/// A page of the streams that are open.
pub(super) async fn list(
    engine: &Engine,
    request: ListConsumersRequest,
) -> Result<ListConsumersResponse, Fault> {
    let size = listing::page_size(request.page_size)?;
    if !request.queue.is_empty() {
        policy::check_name(&request.queue)?;
    }
    let question = ["consumers", request.queue.as_str()];
    let after = match request.page_token.as_str() {
        "" => ConsumerId::NONE,
        token => consumer_id("page_token", listing::from_token(&question, token)?)?,
    };
    let (lsn, connected) = engine.connected(after, size + 1, &request.queue);
    engine.durable(lsn).await?;
    let consumers = connected.into_iter().map(client::to_consumer);
    let (consumers, more) = listing::page(consumers, size);
    let last = consumers.last().filter(|_| more);
    let token = last.map(|last| listing::to_token(&question, &last.consumer_id));
    Ok(ListConsumersResponse { consumers, next_page_token: token.unwrap_or_default() })
}

/// Ends a stream, and its session where that is asked for.
pub(super) async fn disconnect(
    engine: &Engine,
    request: DisconnectConsumerRequest,
) -> Result<(), Fault> {
    let DisconnectConsumerRequest { consumer_id, end_session } = request;
    let id = self::consumer_id("consumer_id", &consumer_id)?;
    let disconnect =
        engine.call(|core, now, out| core.disconnect_consumer(id, end_session, now, out));
    flat(disconnect.await)?;
    info!(consumer = consumer_id, end_session, "an operator ended a consumer's stream");
    Ok(())
}

fn consumer_id(field: &'static str, text: &str) -> Result<ConsumerId, Fault> {
    let why = "this broker never gave such an id";
    ConsumerId::parse(text).ok_or_else(|| Fault::invalid(field, why))
}
