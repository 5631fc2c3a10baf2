//! Queues: declare, describe, empty, delete.

use std::time::Duration;

use qbroker_proto::v1::admin_service_server::AdminService;
use qbroker_proto::v1::*;
use tonic::{Request, Response, Status};

use super::convert::policy::{self, Figures, NewQueue};
use super::convert::time::duration_ms;
use super::convert::{bounds, filter};
use super::fault::{Fault, flat};
use super::features::{FEATURES, FIND_MESSAGES};
use super::{
    Context, browse, consumers, events, find, messages, operations, queue_list, stats, trace,
};
use crate::engine::{Core, Engine};
use crate::queue::index::{Index as _, StateSet};
use crate::queue::refused::Refused;
use crate::queue::state::{
    BARRIER_BYTES_MAX, COLLECTING_MESSAGES_MAX, SCHEDULE_BYTES_MAX, SCHEDULES_MAX,
};
use crate::queue::{self, Expected, Lost, Queue as Stored};

/// Messages that a queue's deletion takes along in one turn.
const PURGED_AT_ONCE: u64 = 1_000;
/// Purges before a queue is deleted all the same: its publishers may be faster.
const PURGES_MAX: u32 = 100;

#[cfg(test)]
mod tests;

/// `AdminService`.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    context: Context,
}

fn answer<T>(answer: Result<T, Fault>) -> Result<Response<T>, Status> {
    answer.map(Response::new).map_err(|fault| fault.to_status())
}

type Watched<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AdminService for Admin {
    async fn create_queue(
        &self,
        request: Request<CreateQueueRequest>,
    ) -> Result<Response<CreateQueueResponse>, Status> {
        answer(self.create(request.into_inner()).await.map(|queue| CreateQueueResponse { queue }))
    }

    async fn get_queue(
        &self,
        request: Request<GetQueueRequest>,
    ) -> Result<Response<GetQueueResponse>, Status> {
        let queue = self.get(&request.into_inner().name).await;
        answer(queue.map(|queue| GetQueueResponse { queue }))
    }

    async fn list_queues(
        &self,
        request: Request<ListQueuesRequest>,
    ) -> Result<Response<ListQueuesResponse>, Status> {
        answer(queue_list::list(&self.context, request.into_inner()).await)
    }

    async fn update_queue(
        &self,
        request: Request<UpdateQueueRequest>,
    ) -> Result<Response<UpdateQueueResponse>, Status> {
        answer(self.update(request.into_inner()).await.map(|queue| UpdateQueueResponse { queue }))
    }

    async fn delete_queue(
        &self,
        request: Request<DeleteQueueRequest>,
    ) -> Result<Response<DeleteQueueResponse>, Status> {
        let deleted = self.delete(request.into_inner()).await;
        answer(deleted.map(|()| DeleteQueueResponse {}))
    }

    async fn list_messages(
        &self,
        request: Request<ListMessagesRequest>,
    ) -> Result<Response<ListMessagesResponse>, Status> {
        answer(browse::list_messages(&self.context.engine, request.into_inner()).await)
    }

    async fn purge_queue(
        &self,
        request: Request<PurgeQueueRequest>,
    ) -> Result<Response<PurgeQueueResponse>, Status> {
        answer(self.purge(request.into_inner()).await)
    }

    async fn wait_queue_empty(
        &self,
        request: Request<WaitQueueEmptyRequest>,
    ) -> Result<Response<WaitQueueEmptyResponse>, Status> {
        answer(self.wait_empty(request.into_inner()).await)
    }

    async fn get_server_info(
        &self,
        _: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        let number = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
        let core = self.context.engine.look(|core| core.limits().clone()).1;
        let limits = [
            ("max_payload_bytes", i64::try_from(core.payload_bytes_max).unwrap_or(i64::MAX)),
            ("max_batch_messages", number(self.context.limits.messages_max)),
            ("max_batch_bytes", number(self.context.limits.bytes_max)),
            ("max_request_bytes", number(bounds::REQUEST_BYTES_MAX)),
            ("max_settlements", number(bounds::SETTLEMENTS_MAX)),
            ("max_window_messages", i64::from(bounds::WINDOW_MESSAGES_MAX)),
            ("max_window_bytes", bounds::WINDOW_BYTES_MAX.cast_signed()),
            ("max_leases", number(core.leases_max)),
            ("max_queues", number(core.queues_max)),
            ("max_producers", number(core.producers_max)),
            ("max_sessions", number(core.sessions_max)),
            ("max_unanswered_settles", number(core.settled_max)),
            ("max_dedup_ids", number(core.message_ids_max)),
            ("max_operations", number(core.operations_max)),
            ("max_pulled", number(core.pulled_max)),
            ("max_state_bytes", number(core.state_bytes_max)),
            ("max_barrier_bytes", number(BARRIER_BYTES_MAX)),
            ("max_commit_bytes", number(core.commit_bytes_max)),
            ("max_completion_bytes", core.completion_bytes_max().cast_signed()),
            ("max_barrier_collecting_messages", number(COLLECTING_MESSAGES_MAX)),
            ("max_outcomes", number(core.outcomes_max)),
            ("max_watchers", number(events::WATCHERS_MAX)),
            ("max_schedules", number(SCHEDULES_MAX)),
            ("max_schedule_bytes", number(SCHEDULE_BYTES_MAX)),
            ("max_unfinished_bytes", number(self.context.rooms.bytes())),
            ("max_streams", i64::from(self.context.streams_max)),
        ];
        let is_off = |feature: &str| feature == FIND_MESSAGES && self.context.search.is_none();
        let features = FEATURES.iter().filter(|feature| !is_off(feature));
        Ok(Response::new(GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: 1,
            durability: "fsync".to_owned(),
            features: features.map(|feature| (*feature).to_owned()).collect(),
            limits: limits.into_iter().map(|(name, limit)| (name.to_owned(), limit)).collect(),
        }))
    }

    async fn pause_queue(
        &self,
        request: Request<PauseQueueRequest>,
    ) -> Result<Response<PauseQueueResponse>, Status> {
        let paused = self.pause(request.into_inner()).await;
        answer(paused.map(|queue| PauseQueueResponse { queue }))
    }

    async fn resume_queue(
        &self,
        request: Request<ResumeQueueRequest>,
    ) -> Result<Response<ResumeQueueResponse>, Status> {
        let resumed = self.resume(&request.into_inner().name).await;
        answer(resumed.map(|queue| ResumeQueueResponse { queue }))
    }

    async fn get_message(
        &self,
        request: Request<GetMessageRequest>,
    ) -> Result<Response<GetMessageResponse>, Status> {
        answer(messages::get(&self.context, request.into_inner()).await)
    }

    async fn find_messages(
        &self,
        request: Request<FindMessagesRequest>,
    ) -> Result<Response<FindMessagesResponse>, Status> {
        answer(find::find(&self.context, request.into_inner()).await)
    }

    async fn update_messages(
        &self,
        request: Request<UpdateMessagesRequest>,
    ) -> Result<Response<UpdateMessagesResponse>, Status> {
        answer(messages::update(&self.context, request.into_inner()).await)
    }

    async fn delete_messages_by_id(
        &self,
        request: Request<DeleteMessagesByIdRequest>,
    ) -> Result<Response<DeleteMessagesByIdResponse>, Status> {
        answer(messages::delete(&self.context, request.into_inner()).await)
    }

    async fn delete_messages(
        &self,
        request: Request<DeleteMessagesRequest>,
    ) -> Result<Response<DeleteMessagesResponse>, Status> {
        let begun = operations::delete(&self.context, request.into_inner()).await;
        answer(begun.map(|operation| DeleteMessagesResponse { operation }))
    }

    async fn move_messages(
        &self,
        request: Request<MoveMessagesRequest>,
    ) -> Result<Response<MoveMessagesResponse>, Status> {
        let begun = operations::move_messages(&self.context, request.into_inner()).await;
        answer(begun.map(|operation| MoveMessagesResponse { operation }))
    }

    async fn list_consumers(
        &self,
        request: Request<ListConsumersRequest>,
    ) -> Result<Response<ListConsumersResponse>, Status> {
        answer(consumers::list(self.engine(), request.into_inner()).await)
    }

    async fn disconnect_consumer(
        &self,
        request: Request<DisconnectConsumerRequest>,
    ) -> Result<Response<DisconnectConsumerResponse>, Status> {
        let disconnected = consumers::disconnect(self.engine(), request.into_inner()).await;
        answer(disconnected.map(|()| DisconnectConsumerResponse {}))
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        answer(operations::list(&self.context, request.into_inner()).await)
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<GetOperationResponse>, Status> {
        let found = operations::get(&self.context, &request.into_inner().operation_id).await;
        answer(found.map(|operation| GetOperationResponse { operation }))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<CancelOperationResponse>, Status> {
        let ended = operations::cancel(&self.context, &request.into_inner().operation_id).await;
        answer(ended.map(|operation| CancelOperationResponse { operation }))
    }

    async fn trace_message(
        &self,
        request: Request<TraceMessageRequest>,
    ) -> Result<Response<TraceMessageResponse>, Status> {
        answer(trace::trace(&self.context, request.into_inner()).await)
    }

    type WatchEventsStream = Watched<WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let watch = events::watch(&self.context, request.into_inner()).await;
        answer(watch.map(|events| Box::pin(events) as Self::WatchEventsStream))
    }

    type WatchStatsStream = Watched<WatchStatsResponse>;

    async fn watch_stats(
        &self,
        request: Request<WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        let watched = stats::watch(self.context.clone(), request.into_inner()).await;
        answer(watched.map(|watched| Box::pin(watched) as Self::WatchStatsStream))
    }
}

impl Admin {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    fn engine(&self) -> &Engine {
        &self.context.engine
    }

    async fn create(&self, request: CreateQueueRequest) -> Result<Option<Queue>, Fault> {
        bounds::id("request_id", &request.request_id)?;
        let queue = request.queue.unwrap_or_default();
        let name = queue.name.clone();
        let limits = self.engine().look(|core| core.limits().clone()).1;
        let NewQueue { description, labels, policy } =
            policy::new_queue(queue, &limits, self.context.hasher)?;
        let (request_id, allow_existing) = (request.request_id, request.allow_existing);
        let create = queue::CreateQueue {
            name: name.clone(),
            description,
            labels,
            policy,
            request_id,
            allow_existing,
        };
        flat(self.engine().call(|core, now, out| core.create_queue(&create, now, out)).await)?;
        self.get(&name).await
    }

    async fn update(&self, request: UpdateQueueRequest) -> Result<Option<Queue>, Fault> {
        let queue = request.queue.unwrap_or_default();
        let (name, etag) = (queue.name.clone(), queue.etag.clone());
        let mask = request.update_mask.unwrap_or_default().paths;
        let limits = self.engine().look(|core| core.limits().clone()).1;
        let new = policy::new_queue(queue, &limits, self.context.hasher)?;
        loop {
            let settable =
                |core: &Core| core.queue(&name).ok().map(|q| (policy::settable(q), q.etag()));
            let found = self.engine().look(settable).1;
            // What was merged must be what is there.
            let expected = match &found {
                None if request.allow_missing => Expected::Absent,
                None => Expected::Any,
                Some((_, seen)) if etag.is_empty() => Expected::Etag(seen.clone()),
                Some(_) => Expected::Etag(etag.clone()),
            };
            let has_changed = |refused: &Refused| match refused {
                Refused::EtagMismatch { .. } => etag.is_empty() || expected == Expected::Absent,
                Refused::QueueNotFound(_) => request.allow_missing,
                _ => false,
            };
            let (stored, _) = found.unwrap_or_default();
            let merged = policy::merge(stored, new.clone(), &mask)?;
            let update = queue::UpdateQueue {
                name: name.clone(),
                description: merged.description,
                labels: merged.labels,
                policy: merged.policy,
                expected: expected.clone(),
            };
            let updated =
                self.engine().call(|core, now, out| core.update_queue(&update, now, out)).await?;
            match updated {
                // Somebody else was faster: look again.
                Err(refused) if has_changed(&refused) => {}
                Err(refused) => return Err(refused.into()),
                Ok(()) => return self.get(&name).await,
            }
        }
    }

    async fn pause(&self, request: PauseQueueRequest) -> Result<Option<Queue>, Fault> {
        let PauseQueueRequest { name, pause_publishing: publishing } = request;
        let pause = queue::PauseQueue { name, publishing };
        flat(self.engine().call(|core, _, out| core.pause_queue(&pause, out)).await)?;
        self.get(&pause.name).await
    }

    async fn resume(&self, name: &str) -> Result<Option<Queue>, Fault> {
        flat(self.engine().call(|core, _, out| core.resume_queue(name, out)).await)?;
        self.get(name).await
    }

    async fn get(&self, name: &str) -> Result<Option<Queue>, Fault> {
        let described = |core: &Core| core.queue(name).map(|queue| describe(core, queue));
        Ok(Some(self.engine().ask(described).await??))
    }

    async fn purge(&self, request: PurgeQueueRequest) -> Result<PurgeQueueResponse, Fault> {
        let mut states = StateSet(0);
        for state in &request.states {
            states = states.with(filter::state_set("states", *state)?);
        }
        if request.states.is_empty() {
            states = StateSet::READY.with(StateSet::SCHEDULED);
            states = states.with(StateSet::PARKED).with(StateSet::BEHIND);
        }
        let purged = self.engine().purge(&request.name, states, Lost::Purged).await;
        let mut purged = flat(purged)?;
        if request.include_dead_letters {
            let letters = self.context.engine.purge_letters(&request.name, states).await;
            match flat(letters) {
                // It was deleted meanwhile, and has none any more.
                Err(Fault::Refused(Refused::QueueNotFound(_))) => {}
                letters => purged += letters?,
            }
        }
        let purged = i64::try_from(purged).unwrap_or(i64::MAX);
        Ok(PurgeQueueResponse { purged })
    }

    /// What the queue holds goes first, in steps; then the queue, with what came meanwhile.
    async fn delete(&self, request: DeleteQueueRequest) -> Result<(), Fault> {
        let DeleteQueueRequest { name, force, allow_missing } = request;
        // What comes while much is purged is purged too: the rest goes in one turn.
        for _ in 0..if force { PURGES_MAX } else { 0 } {
            let purged = self.engine().purge(&name, StateSet::ALL, Lost::Deleted).await;
            match flat(purged) {
                Err(Fault::Refused(Refused::QueueNotFound(_))) => break,
                Ok(purged) if purged <= PURGED_AT_ONCE => break,
                purged => drop(purged?),
            }
        }
        let delete = queue::DeleteQueue { name, force, allow_missing };
        flat(self.engine().call(|core, _, out| core.delete_queue(&delete, out)).await)
    }

    async fn wait_empty(
        &self,
        request: WaitQueueEmptyRequest,
    ) -> Result<WaitQueueEmptyResponse, Fault> {
        let wait_ms = duration_ms("wait_timeout", request.wait_timeout, 0, 60_000)?;
        let wait = tokio::time::sleep(Duration::from_millis(wait_ms.unwrap_or(20_000)));
        tokio::pin!(wait);
        // Before the first look: what empties the queue while that is not durable is not missed.
        let mut progress = self.engine().progress();
        loop {
            let figures = |core: &Core| {
                core.queue(&request.name).map(|queue| {
                    let figures = figures(core, queue);
                    let held = figures.counts;
                    let empty = held.ready + held.scheduled + held.leased + held.behind == 0;
                    (empty, policy::to_stats(queue, figures))
                })
            };
            let (empty, stats) = self.engine().ask(figures).await??;
            if empty || wait.is_elapsed() {
                return Ok(WaitQueueEmptyResponse { empty, stats: Some(stats) });
            }
            // Only a commit can change the answer.
            tokio::select! {
                () = &mut wait => {}
                commit = progress.next_commit() => commit?,
                _ = self.context.stopping() => return Err(Fault::ShuttingDown),
            }
        }
    }
}

pub(super) fn unknown_state(state: i32) -> Fault {
    Fault::invalid("states", format!("{state} is no state"))
}

pub(super) fn describe(core: &Core, queue: &Stored) -> Queue {
    policy::to_queue(queue, figures(core, queue), core.limits())
}

/// [`describe`], with the policy as it was set.
pub(super) fn describe_as_set(core: &Core, queue: &Stored) -> Queue {
    Queue { policy: Some(policy::as_set(&queue.definition.policy)), ..describe(core, queue) }
}

pub(crate) fn figures(core: &Core, queue: &Stored) -> Figures {
    let letters = queue.dead_letter_queue_name().and_then(|name| core.queue(&name).ok());
    Figures {
        counts: core.index().counts(queue.id()),
        dead: letters
            .map(|letters| core.index().counts(letters.id()).messages())
            .unwrap_or_default(),
        oldest_ready_ms: core.index().oldest_ready(queue.id()),
        consumers: core.consumers_of(&queue.name),
    }
}
