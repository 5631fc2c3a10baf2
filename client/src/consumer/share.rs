//! A queue of a consumer, and its share of the window.

use qbroker_proto::v1;

/// A queue of a consumer or a pull, and its share of what may be delivered at a time.
///
/// Of a consumer whose queues are mere names, they take turns.
///
/// ```no_run
/// # async fn example(client: qbroker_client::Client) -> Result<(), qbroker_client::Error> {
/// use qbroker_client::QueueShare;
///
/// // Six of ten messages are of "high", and never more than two of "reports" run at once.
/// let queues = [
///     QueueShare::new("high").weight(6),
///     QueueShare::new("default").weight(3),
///     QueueShare::new("reports").weight(1).window(2),
/// ];
/// let consumer = client.consumer(queues).window(16).open().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueShare {
    queue: String,
    rank: i32,
    weight: Option<u32>,
    window: Option<u32>,
}

impl QueueShare {
    /// A queue of rank 0 and weight 1.
    #[must_use]
    pub fn new(queue: impl Into<String>) -> Self {
        Self { queue: queue.into(), rank: 0, weight: None, window: None }
    }

    /// Lower ranks are served first: while one of their queues has a message, the others wait.
    #[must_use]
    pub fn rank(mut self, rank: i32) -> Self {
        self.rank = rank;
        self
    }

    /// Which part it has of the messages that queues of its rank give; 1 to 1,000.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = Some(weight);
        self
    }

    /// How many messages of this queue may be delivered and unsettled at a time; 1 to 100,000, and no
    /// more than the consumer's own window.
    #[must_use]
    pub fn window(mut self, messages: u32) -> Self {
        self.window = Some(messages);
        self
    }

    pub(crate) fn into_wire(self) -> v1::QueueSelector {
        let number = |number: u32| number.try_into().unwrap_or(i32::MAX);
        v1::QueueSelector {
            queue: self.queue,
            rank: self.rank,
            weight: self.weight.map(number),
            max_outstanding_messages: self.window.map(number),
        }
    }
}

impl From<&str> for QueueShare {
    fn from(queue: &str) -> Self {
        Self::new(queue)
    }
}

impl From<String> for QueueShare {
    fn from(queue: String) -> Self {
        Self::new(queue)
    }
}

impl From<&String> for QueueShare {
    fn from(queue: &String) -> Self {
        Self::new(queue)
    }
}
