//! Lists of queues: by name, or those with the most of something first.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message as _;
use qbroker_proto::v1::*;

use super::admin::{describe, describe_as_set, figures, unknown_state};
use super::convert::policy;
use super::fault::Fault;
use super::{Context, listing};
use crate::engine::{Core, Engine};
use crate::queue::Queue as Stored;
use crate::queue::index::Index as _;

/// Queues that are described before others have their turn.
const DESCRIBED: usize = 64;
/// Lists that are kept for whoever pages through them. Who goes on in an older one has it sorted anew. Of
/// 100,000 queues one takes 2.4 MB.
const LISTS_MAX: usize = 4;

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

/// Lists as they were when their first page was asked for: sorted once, not for each page.
#[derive(Debug, Default)]
pub(super) struct Lists(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    /// The latest last.
    lists: VecDeque<Arc<List>>,
}

#[derive(Debug)]
struct List {
    number: u64,
    question: String,
    stands: Vec<Stand>,
}

impl Lists {
    fn find(&self, number: u64, question: &str) -> Option<Arc<List>> {
        let kept = self.0.lock();
        let found = kept.lists.iter().find(|it| it.number == number && it.question == question);
        found.cloned()
    }

    /// Keeps a list; beyond [`LISTS_MAX`] the first goes.
    fn keep(&self, question: String, stands: Vec<Stand>) -> Arc<List> {
        let mut kept = self.0.lock();
        kept.last += 1;
        let list = Arc::new(List { number: kept.last, question, stands });
        kept.lists.push_back(list.clone());
        if LISTS_MAX < kept.lists.len() {
            kept.lists.pop_front();
        }
        list
    }

    /// Nobody goes on in this one.
    fn forget(&self, number: u64) {
        self.0.lock().lists.retain(|list| list.number != number);
    }
}

/// Where a page goes on: in a list, behind a queue, which says enough where the list is gone.
struct Token {
    list: u64,
    after: Stand,
}

impl Token {
    fn text(&self) -> String {
        let (Reverse(figure), name) = &self.after;
        format!("{} {figure} {name}", self.list)
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let malformed = || Fault::invalid("page_token", "it is not the token of such a call");
        let mut parts = text.splitn(3, ' ');
        let mut next = || parts.next().ok_or_else(malformed);
        let (list, figure, name) = (next()?, next()?, next()?);
        let number = |text: &str| text.parse().map_err(|_| malformed());
        Ok(Self { list: number(list)?, after: (Reverse(number(figure)?), Arc::from(name)) })
    }
}

/// A page of queues.
pub(super) async fn list(
    context: &Context,
    request: ListQueuesRequest,
) -> Result<ListQueuesResponse, Fault> {
    let size = listing::page_size(request.page_size)?;
    let order = Order::of(&request.order_by)?;
    let filter = Filter::of(request.name_contains, request.states)?;
    let (states, by) = (format!("{:?}", filter.states), format!("{order:?}"));
    let as_set = request.policy_as_set.to_string();
    let question = [filter.name_contains.as_str(), &states, &by, &as_set];
    let token = match request.page_token.as_str() {
        "" => None,
        token => Some(Token::parse(listing::from_token(&question, token)?)?),
    };
    let joined = question.join("\n");
    let known = token.as_ref().and_then(|token| context.lists.find(token.list, &joined));
    let list = match known {
        Some(list) => list,
        None => {
            let mut stands = stands(&context.engine, order, &filter).await;
            stands.sort_unstable();
            if stands.len() <= size {
                Arc::new(List { number: 0, question: joined, stands })
            } else {
                context.lists.keep(joined, stands)
            }
        }
    };
    let first = token.map_or(0, |token| list.stands.partition_point(|it| *it <= token.after));
    let page = &list.stands[first..list.stands.len().min(first + size)];
    let (queues, count) = described(&context.engine, page, request.policy_as_set).await?;
    let next_page_token = match page[..count].last() {
        Some(last) if first + count < list.stands.len() => {
            let number = match list.number {
                // All of it was to be on one page, and is too large for that.
                0 => context.lists.keep(list.question.clone(), list.stands.clone()).number,
                number => number,
            };
            let next = Token { list: number, after: last.clone() };
            listing::to_token(&question, &next.text())
        }
        _ => {
            context.lists.forget(list.number);
            String::new()
        }
    };
    let total_size = i32::try_from(list.stands.len()).unwrap_or(i32::MAX);
    Ok(ListQueuesResponse { queues, next_page_token, total_size })
}

/// The queues as they are now, as many as fit, and how far in the page that is; those that were deleted
/// meanwhile are left out.
async fn described(
    engine: &Engine,
    page: &[Stand],
    as_set: bool,
) -> Result<(Vec<Queue>, usize), Fault> {
    let (mut queues, mut count) = (Vec::with_capacity(page.len()), 0);
    let mut held = listing::Held::default();
    // Also where nothing is listed: what is not there may not be durable yet.
    let mut told = engine.look(|_| ()).0;
    'page: for some in page.chunks(DESCRIBED) {
        let describe = |core: &Core| {
            let queues = some.iter().map(|(_, name)| core.queue(name).ok());
            let describe = |queue| match as_set {
                true => describe_as_set(core, queue),
                false => describe(core, queue),
            };
            queues.map(|queue| queue.map(describe)).collect::<Vec<_>>()
        };
        let (lsn, found) = engine.look(describe);
        told = lsn;
        for queue in found {
            if let Some(queue) = queue {
                if !held.takes(queue.encoded_len() as u64) {
                    break 'page;
                }
                queues.push(queue);
            }
            count += 1;
        }
        tokio::task::yield_now().await;
    }
    engine.durable(told).await?;
    Ok((queues, count))
}

/// Where every queue stands that is wanted, in no order.
async fn stands(engine: &Engine, order: Order, filter: &Filter) -> Vec<Stand> {
    let mut stands = Vec::new();
    let mut last = None;
    loop {
        let mut visit = |core: &Core, queue: &Stored| {
            if filter.wants(queue) {
                stands.push(order.stand(core, queue));
            }
        };
        last = engine.look_at_queues(last.as_deref(), &mut visit);
        if last.is_none() {
            return stands;
        }
        tokio::task::yield_now().await;
    }
}
