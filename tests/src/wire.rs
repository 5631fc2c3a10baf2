//! The protocol without the client crate: generated clients, and what a refusal says.

use std::collections::HashMap;
use std::time::Duration;

use qbroker_proto::v1::admin_service_client::AdminServiceClient;
use qbroker_proto::v1::consumer_service_client::ConsumerServiceClient;
use qbroker_proto::v1::publisher_service_client::PublisherServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A connection, and the services over it.
#[derive(Clone, Debug)]
pub struct Wire {
    channel: Channel,
}

impl Wire {
    /// Connects to a broker.
    ///
    /// # Panics
    /// When nobody answers at `url`.
    pub async fn connect(url: &str) -> Self {
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("it is a URL");
        Self { channel: endpoint.connect().await.expect("the broker answers") }
    }

    /// Connects as a client whose windows are as small as HTTP/2 lets them be by default: little is
    /// on its way to whoever does not read.
    ///
    /// # Panics
    /// When nobody answers at `url`.
    pub async fn connect_narrow(url: &str) -> Self {
        let window = (1 << 16) - 1;
        let endpoint = Endpoint::from_shared(url.to_owned())
            .expect("it is a URL")
            .initial_stream_window_size(window)
            .initial_connection_window_size(window);
        Self { channel: endpoint.connect().await.expect("the broker answers") }
    }

    /// The bare connection.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Publishing.
    pub fn publisher(&self) -> PublisherServiceClient<Channel> {
        PublisherServiceClient::new(self.channel())
    }

    /// Pulling, consuming, settling.
    pub fn consumer(&self) -> ConsumerServiceClient<Channel> {
        ConsumerServiceClient::new(self.channel())
    }

    /// Administration.
    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel())
    }
}

/// A refused call as a client in any language sees it.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: Code,
    pub reason: String,
    pub message: String,
    pub metadata: HashMap<String, String>,
    /// When it is worth another try, where that is told.
    pub retry_delay: Option<Duration>,
}

impl Refusal {
    /// Reads a status.
    ///
    /// # Panics
    /// When the status has no reason, or its trailer and its details do not agree.
    pub fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("no reason: {status:?}"));
        let trailer = status.metadata().get("qbroker-reason").and_then(|text| text.to_str().ok());
        assert_eq!(trailer, Some(info.reason.as_str()), "the trailer repeats the reason");
        assert_eq!(info.domain, "qbroker");
        Self {
            code: status.code(),
            reason: info.reason.clone(),
            message: status.message().to_owned(),
            metadata: info.metadata.clone(),
            retry_delay: details.retry_info().and_then(|retry| retry.retry_delay),
        }
    }

    /// Code and reason together, to compare with.
    pub fn is(&self) -> (Code, &str) {
        (self.code, &self.reason)
    }
}
