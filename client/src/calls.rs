//! Single calls instead of streams: publish, pull, settle, extend.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use qbroker_proto::v1::{
    self, consumer_service_client::ConsumerServiceClient,
    publisher_service_client::PublisherServiceClient,
};

use crate::connection::{Channel, Client, MESSAGE_BYTES_MAX, random_id};
use crate::consumer::QueueShare;
use crate::error::Error;
use crate::message::{Leased, OutgoingMessage, Sent};
use crate::publisher::Receipt;
use crate::settlement::Settlement;
use crate::time;

impl Client {
    /// Publishes a batch, all or nothing, with one call.
    ///
    /// Messages without an id get a random one, so that the call can be repeated when its answer is
    /// lost: inside the queue's dedup window nothing is stored twice. For many messages a
    /// [`Publisher`](crate::Publisher) is cheaper, and exact without a window.
    ///
    /// ```no_run
    /// # async fn example(client: qbroker_client::Client) -> Result<(), qbroker_client::Error> {
    /// use qbroker_client::OutgoingMessage;
    ///
    /// let receipts = client.publish("mails", vec![OutgoingMessage::new("hello")]).await?;
    /// println!("{} is on disk", receipts[0].message_id);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]: nothing is stored, metadata "index" is the position of the message that
    /// caused it. Otherwise it may or may not be stored.
    pub async fn publish(
        &self,
        queue: &str,
        messages: Vec<OutgoingMessage>,
    ) -> Result<Vec<Receipt>, Error> {
        let results = self.publish_request(queue, messages, false).await?;
        results.into_iter().collect()
    }

    /// Publishes messages that stand alone: each has its own outcome, in their order.
    ///
    /// # Errors
    ///
    /// As [`Client::publish`], for the call as a whole.
    pub async fn publish_each(
        &self,
        queue: &str,
        messages: Vec<OutgoingMessage>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        self.publish_request(queue, messages, true).await
    }

    /// Leases up to `max_messages` messages of these queues, waiting up to `wait` for the first one.
    ///
    /// `lease_duration` is how long they are yours ([`Client::extend_leases`] makes it longer);
    /// `None`: the queue's. The leases belong to this client's session. Repeated when the answer is lost,
    /// which is safe: the same leases are told again.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::Disconnected`], [`Error::TimedOut`]; after the latter two,
    /// messages may have been leased: they come again when the lease ends.
    pub async fn pull<Q: Into<QueueShare>>(
        &self,
        queues: impl IntoIterator<Item = Q>,
        max_messages: u32,
        wait: Duration,
        lease_duration: Option<Duration>,
    ) -> Result<Vec<Leased>, Error> {
        let queues = queues.into_iter().map(|queue| queue.into().into_wire());
        let request = v1::PullRequest {
            queues: queues.collect(),
            max_messages: max_messages.try_into().unwrap_or(i32::MAX),
            wait_timeout: Some(time::duration(wait)),
            lease_duration: lease_duration.map(time::duration),
            session_id: self.session_id().to_owned(),
            // So that a lost answer can be asked for again.
            request_id: random_id(),
            ..v1::PullRequest::default()
        };
        let call = |channel, request| async move { consumer(channel).pull(request).await };
        let response = self.call(true, wait, request, call).await?;
        let batch = response.batch.unwrap_or_default();
        let sent = batch.time.and_then(Sent::at);
        let leased = |delivery| Leased { sent, ..Leased::from(delivery) };
        Ok(batch.deliveries.into_iter().map(leased).collect())
    }

    /// Settles leases of [`Client::pull`], or of any consumer; each has its own result, in their
    /// order.
    ///
    /// Repeated when the answer is lost, which is safe: a lease that was settled so before is
    /// settled. Where the effects of one are refused ([`Error::Refused`], other than
    /// `ALREADY_SETTLED`), its lease is kept.
    ///
    /// # Errors
    ///
    /// What kept all of them from being settled, or left that unknown.
    pub async fn settle(
        &self,
        settlements: Vec<(Bytes, impl Into<Settlement>)>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let tokens: Vec<Bytes> = settlements.iter().map(|(token, _)| token.clone()).collect();
        let settlements = settlements.into_iter().map(|(token, what)| what.into().of(token));
        let request = v1::SettleRequest {
            settlements: settlements.collect(),
            ..v1::SettleRequest::default()
        };
        let call = |channel, request| async move { consumer(channel).settle(request).await };
        let response = self.call(true, Duration::ZERO, request, call).await?;
        Ok(results(&tokens, response.failures))
    }

    /// Makes leases last for `duration` from now, `None`: for as long as each was granted for; each
    /// has its own result, in their order.
    ///
    /// # Errors
    ///
    /// What kept all of them from being extended, or left that unknown.
    pub async fn extend_leases(
        &self,
        tokens: Vec<Bytes>,
        duration: Option<Duration>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let request = v1::ExtendLeasesRequest {
            lease_tokens: tokens.clone(),
            lease_duration: duration.map(time::duration),
            ..v1::ExtendLeasesRequest::default()
        };
        let call = |channel, request| async move { consumer(channel).extend_leases(request).await };
        let response = self.call(true, Duration::ZERO, request, call).await?;
        Ok(results(&tokens, response.failures))
    }

    async fn publish_request(
        &self,
        queue: &str,
        messages: Vec<OutgoingMessage>,
        allow_partial: bool,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        let count = messages.len();
        let messages = messages.into_iter().map(|message| {
            let mut message = message.0;
            if message.message_id.is_empty() {
                message.message_id = random_id();
            }
            message
        });
        let request = v1::PublishRequest {
            queue: queue.to_owned(),
            messages: messages.collect(),
            allow_partial,
        };
        let call = |channel, request| async move { publisher(channel).publish(request).await };
        let response = self.call(true, Duration::ZERO, request, call).await?;
        if response.results.len() != count {
            let got = response.results.len();
            return Err(Error::Protocol(format!("{got} results for {count} messages")));
        }
        Ok(response.results.into_iter().map(receipt).collect())
    }
}

fn publisher(channel: Channel) -> PublisherServiceClient<Channel> {
    PublisherServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn consumer(channel: Channel) -> ConsumerServiceClient<Channel> {
    ConsumerServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn receipt(result: v1::PublishResult) -> Result<Receipt, Error> {
    match result.outcome {
        Some(v1::publish_result::Outcome::Receipt(receipt)) => Ok(Receipt {
            message_id: receipt.message_id,
            sequence: u64::try_from(receipt.sequence).ok().filter(|sequence| *sequence != 0),
            duplicate: receipt.duplicate,
        }),
        Some(v1::publish_result::Outcome::Error(error)) => Err(error.into()),
        None => Err(Error::Protocol("a message has neither receipt nor error".to_owned())),
    }
}

/// One result for each token; what is not among the failures succeeded.
fn results(tokens: &[Bytes], failures: Vec<v1::SettleFailure>) -> Vec<Result<(), Error>> {
    let failed = |failure: v1::SettleFailure| {
        (failure.lease_token, Error::from(failure.error.unwrap_or_default()))
    };
    let mut failures: HashMap<Bytes, Error> = failures.into_iter().map(failed).collect();
    tokens.iter().map(|token| failures.remove(token).map_or(Ok(()), Err)).collect()
}
