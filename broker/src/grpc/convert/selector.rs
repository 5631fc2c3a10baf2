//! The queues that a consumer or a pull asks for, and their shares of its room.

use std::collections::HashSet;

use qbroker_proto::v1::QueueSelector;

use super::bounds;
use crate::grpc::fault::Fault;
use crate::queue::Selector;

/// Queues of which the shares are told: all of them are looked at for each turn of the consumer.
const SHARED_MAX: usize = 100;
const WEIGHT_MAX: u32 = 1_000;

/// The queues, each once, as it was named first.
pub(in crate::grpc) fn selectors(selectors: Vec<QueueSelector>) -> Result<Vec<Selector>, Fault> {
    bounds::batch("queues", selectors.len(), bounds::SELECTORS_MAX, "queues")?;
    let mut named = HashSet::with_capacity(selectors.len());
    let mut queues = Vec::with_capacity(selectors.len());
    for wire in selectors {
        let selector = selector(wire)?;
        if named.insert(selector.queue.clone()) {
            queues.push(selector);
        }
    }
    if SHARED_MAX < queues.len() && !queues.iter().all(Selector::is_plain) {
        let why = format!(
            "{} queues; at most {SHARED_MAX} may have ranks, weights or windows",
            queues.len()
        );
        return Err(Fault::invalid("queues", why));
    }
    Ok(queues)
}

fn selector(wire: QueueSelector) -> Result<Selector, Fault> {
    let within = |field, value: i32, max: u32| match u32::try_from(value) {
        Ok(value @ 1..) if value <= max => Ok(value),
        _ => Err(Fault::invalid(field, format!("{value} is not within 1 to {max}"))),
    };
    let window = wire.max_outstanding_messages;
    let window =
        window.map(|it| within("max_outstanding_messages", it, bounds::WINDOW_MESSAGES_MAX));
    Ok(Selector {
        queue: wire.queue,
        rank: wire.rank,
        weight: within("weight", wire.weight.unwrap_or(1), WEIGHT_MAX)?,
        window: window.transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(queue: &str) -> QueueSelector {
        QueueSelector { queue: queue.to_owned(), ..QueueSelector::default() }
    }

    fn many(count: usize) -> Vec<QueueSelector> {
        (0..count).map(|number| named(&format!("q{number}"))).collect()
    }

    #[test]
    fn a_queue_that_is_named_twice_counts_once_as_it_was_first() {
        let first = QueueSelector { rank: 3, ..named("a") };
        let queues = selectors(vec![first, named("b"), named("a")]).unwrap();
        assert_eq!(
            queues.iter().map(|it| (&*it.queue, it.rank)).collect::<Vec<_>>(),
            [("a", 3), ("b", 0)]
        );
    }

    #[test]
    fn shares_have_bounds_at_them_and_one_beyond() {
        let weight = |weight| selectors(vec![QueueSelector { weight: Some(weight), ..named("a") }]);
        assert!(weight(1_000).is_ok() && weight(1).is_ok());
        assert!(weight(1_001).is_err() && weight(0).is_err() && weight(-1).is_err());
        let window = |window| {
            let max_outstanding_messages = Some(window);
            selectors(vec![QueueSelector { max_outstanding_messages, ..named("a") }])
        };
        assert!(window(100_000).is_ok() && window(100_001).is_err() && window(0).is_err());
        let ranked = |count| {
            let mut queues = many(count);
            queues[0].rank = 1;
            selectors(queues)
        };
        assert!(ranked(SHARED_MAX).is_ok() && ranked(SHARED_MAX + 1).is_err());
        assert!(selectors(many(1_000)).is_ok() && selectors(many(1_001)).is_err());
    }
}
