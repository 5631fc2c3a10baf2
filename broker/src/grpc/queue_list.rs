//! Lists of queues: by name, or those with the most of something first.

use std::cmp::Reverse;
use std::sync::Arc;

use qbroker_proto::v1::*;

use super::admin::{describe, describe_as_set, figures, unknown_state};
use super::convert::policy;
use super::fault::Fault;
use super::listing;
use crate::engine::{Core, Engine};
use crate::queue::Queue as Stored;
use crate::queue::index::Index as _;

/// Queues that are looked at before others have their turn.
const LOOKED_AT: usize = 2_048;

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Name,
    Ready,
    Dead,
}

impl Order {
    fn of(order_by: &str) -> Result<Self, Fault> {
        match order_by {
            "" | "name" => Ok(Self::Name),
            "ready desc" => Ok(Self::Ready),
            "dead desc" => Ok(Self::Dead),
            _ => {
                let why = "it is none of \"name\", \"ready desc\", \"dead desc\"";
                Err(Fault::invalid("order_by", why))
            }
        }
    }

    /// Where a queue stands: the largest figure first, those of one figure by name.
    fn stand(self, core: &Core, queue: &Stored) -> Stand {
        let figure = match self {
            Self::Name => 0,
            Self::Ready => core.index().counts(queue.id()).ready,
            Self::Dead => figures(core, queue).dead,
        };
        (Reverse(figure), queue.name.clone())
    }
}

type Stand = (Reverse<u64>, Arc<str>);

/// Which queues are wanted.
struct Filter {
    name_contains: String,
    states: Vec<i32>,
}

impl Filter {
    fn of(name_contains: String, states: Vec<i32>) -> Result<Self, Fault> {
        for state in &states {
            if matches!(QueueState::try_from(*state), Ok(QueueState::Unspecified) | Err(_)) {
                return Err(unknown_state(*state));
            }
        }
        Ok(Self { name_contains, states })
    }

    fn wants(&self, queue: &Stored) -> bool {
        let state = policy::state(queue) as i32;
        let is_wanted = self.states.is_empty() || self.states.contains(&state);
        is_wanted && queue.name.contains(&self.name_contains)
    }
}

/// A page of queues.
pub(super) async fn list(
    engine: &Engine,
    request: ListQueuesRequest,
) -> Result<ListQueuesResponse, Fault> {
    let size = listing::page_size(request.page_size)?;
    let order = Order::of(&request.order_by)?;
    let filter = Filter::of(request.name_contains, request.states)?;
    let (states, by) = (format!("{:?}", filter.states), format!("{order:?}"));
    let as_set = request.policy_as_set.to_string();
    let question = [filter.name_contains.as_str(), &states, &by, &as_set];
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(parse_stand(listing::from_token(&question, token)?)?),
    };
    let mut stands = stands(engine, order, &filter);
    let total_size = i32::try_from(stands.len()).unwrap_or(i32::MAX);
    stands.retain(|stand| after.as_ref().is_none_or(|after| after < stand));
    if size < stands.len() {
        // All of them in order are not needed, nor is it known how many there are.
        stands.select_nth_unstable(size);
        stands.truncate(size + 1);
    }
    stands.sort_unstable();
    let more = size < stands.len();
    stands.truncate(size);
    let next_page_token = match stands.last() {
        Some((Reverse(figure), name)) if more => {
            listing::to_token(&question, &format!("{figure} {name}"))
        }
        _ => String::new(),
    };
    // What was deleted meanwhile is left out.
    let described = |core: &Core| {
        let queues = stands.iter().filter_map(|(_, name)| core.queue(name).ok());
        let describe = |queue| match request.policy_as_set {
            true => describe_as_set(core, queue),
            false => describe(core, queue),
        };
        queues.map(describe).collect()
    };
    let queues = engine.ask(described).await?;
    Ok(ListQueuesResponse { queues, next_page_token, total_size })
}

/// Where every queue stands that is wanted, in no order.
fn stands(engine: &Engine, order: Order, filter: &Filter) -> Vec<Stand> {
    let mut stands = Vec::new();
    let mut last: Option<Arc<str>> = None;
    loop {
        let after = last.take();
        let look = |core: &Core| {
            let queues = core.queues_after(after.as_deref().unwrap_or_default()).take(LOOKED_AT);
            for (count, queue) in (1..).zip(queues) {
                if filter.wants(queue) {
                    stands.push(order.stand(core, queue));
                }
                last = (count == LOOKED_AT).then(|| queue.name.clone());
            }
        };
        engine.look(look);
        if last.is_none() {
            return stands;
        }
    }
}

fn parse_stand(text: &str) -> Result<Stand, Fault> {
    let malformed = || Fault::invalid("page_token", "it is not the token of such a call");
    let (figure, name) = text.split_once(' ').ok_or_else(malformed)?;
    let figure = figure.parse().map_err(|_| malformed())?;
    Ok((Reverse(figure), Arc::from(name)))
}
