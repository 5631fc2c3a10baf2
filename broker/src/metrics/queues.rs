//! Which queues get a label of their own: the most active ones, so that the page stays bounded.

use super::QueueFigures;

/// Queues beyond this number are summed up: 17 series each, and a scraper that must keep them all.
const LABELLED_MAX: usize = 200;

/// The label of what is summed up. No queue is called so by accident; one that is joins the sum.
pub(super) const OTHER: &str = "_other";

/// Keeps the most active queues, by name, and sums up the rest, so that totals stay right.
///
/// Activity is counted since each queue's creation, so that places seldom change: a queue that moves
/// into the sum or out of it looks to a scraper like a counter that was reset.
pub(super) fn most_active(mut queues: Vec<QueueFigures>) -> Vec<QueueFigures> {
    queues.sort_by(|a, b| activity(b).cmp(&activity(a)).then_with(|| a.name.cmp(&b.name)));
    let rest = queues.split_off(queues.len().min(LABELLED_MAX));
    let (mut sums, mut labelled): (Vec<_>, Vec<_>) =
        queues.into_iter().partition(|queue| queue.name == OTHER);
    labelled.sort_by(|a, b| a.name.cmp(&b.name));
    sums.extend(rest);
    let sum = sums.into_iter().reduce(add);
    labelled.extend(sum.map(|sum| QueueFigures { name: OTHER.to_owned(), ..sum }));
    labelled
}

fn activity(queue: &QueueFigures) -> u64 {
    queue.published_total.saturating_add(queue.delivered_total)
}

fn add(a: QueueFigures, b: QueueFigures) -> QueueFigures {
    QueueFigures {
        name: OTHER.to_owned(),
        ready: a.ready + b.ready,
        scheduled: a.scheduled + b.scheduled,
        leased: a.leased + b.leased,
        parked: a.parked + b.parked,
        behind: a.behind + b.behind,
        dead_letters: a.dead_letters + b.dead_letters,
        bytes: a.bytes + b.bytes,
        consumers: a.consumers + b.consumers,
        paused: a.paused + b.paused,
        oldest_ready_age: a.oldest_ready_age.max(b.oldest_ready_age),
        published_total: a.published_total + b.published_total,
        delivered_total: a.delivered_total + b.delivered_total,
        acked_total: a.acked_total + b.acked_total,
        retried_total: a.retried_total + b.retried_total,
        dead_lettered_total: a.dead_lettered_total + b.dead_lettered_total,
        leases_expired_total: a.leases_expired_total + b.leases_expired_total,
        expired_total: a.expired_total + b.expired_total,
        deleted_total: a.deleted_total + b.deleted_total,
        moved_total: a.moved_total + b.moved_total,
        dropped_total: a.dropped_total + b.dropped_total,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str, published_total: u64) -> QueueFigures {
        QueueFigures { name: name.to_owned(), published_total, ready: 1, ..QueueFigures::default() }
    }

    #[test]
    fn few_queues_stand_alone_by_name() {
        let names: Vec<String> =
            most_active(vec![queue("b", 1), queue("a", 0)]).into_iter().map(|q| q.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(most_active(Vec::new()).is_empty());
    }

    #[test]
    fn the_least_active_are_summed_up_and_nothing_is_lost() {
        let many = (0..1000).map(|n| queue(&format!("q{n}"), n)).collect();
        let shown = most_active(many);
        assert_eq!(shown.len(), LABELLED_MAX + 1);
        let other = shown.last().unwrap();
        assert_eq!((other.name.as_str(), other.ready), (OTHER, 800));
        assert!(shown.iter().any(|queue| queue.name == "q999"));
        assert!(!shown.iter().any(|queue| queue.name == "q0"));
        let published: u64 = shown.iter().map(|queue| queue.published_total).sum();
        assert_eq!(published, (0..1000).sum::<u64>());
    }

    #[test]
    fn the_sum_is_called_other_even_when_one_queue_is_left_over() {
        let mut many: Vec<_> =
            (1..=LABELLED_MAX as u64).map(|n| queue(&format!("q{n}"), n)).collect();
        many.push(queue("least", 0));
        assert_eq!(most_active(many).last().unwrap().name, OTHER);
    }
}
