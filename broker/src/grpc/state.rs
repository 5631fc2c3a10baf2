//! Values, counters, permits and barriers.

use std::collections::HashMap;

use bytes::Bytes;
use qbroker_proto::v1::state_service_server::StateService;
use qbroker_proto::v1::*;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::Context;
use super::convert::settlements::Reading;
use super::convert::state;
use super::fault::{Fault, flat};
use crate::engine::Watching;
use crate::queue::state::{BarrierState as State, BarrierView, Key, Kind, PermitId};

#[cfg(test)]
mod tests;

/// Bytes of values that one answer holds.
const VALUES_BYTES_MAX: u64 = 8 << 20;

/// `StateService`.
#[derive(Clone, Debug)]
pub(super) struct StateCalls {
    context: Context,
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(done: Result<T, Fault>) -> Answer<T> {
    done.map(Response::new).map_err(|fault| fault.to_status())
}

#[tonic::async_trait]
impl StateService for StateCalls {
    async fn put_value(&self, request: Request<PutValueRequest>) -> Answer<PutValueResponse> {
        answer(self.put(request.into_inner()).await)
    }

    async fn batch_get_values(
        &self,
        request: Request<BatchGetValuesRequest>,
    ) -> Answer<BatchGetValuesResponse> {
        answer(self.values(request.into_inner()).await)
    }

    async fn delete_value(
        &self,
        request: Request<DeleteValueRequest>,
    ) -> Answer<DeleteValueResponse> {
        answer(self.delete(request.into_inner()).await)
    }

    async fn change_counter(
        &self,
        request: Request<ChangeCounterRequest>,
    ) -> Answer<ChangeCounterResponse> {
        answer(self.change(request.into_inner()).await)
    }

    async fn batch_get_counters(
        &self,
        request: Request<BatchGetCountersRequest>,
    ) -> Answer<BatchGetCountersResponse> {
        answer(self.counters(request.into_inner()).await)
    }

    async fn acquire_permit(
        &self,
        request: Request<AcquirePermitRequest>,
    ) -> Answer<AcquirePermitResponse> {
        answer(self.acquire(request.into_inner()).await)
    }

    async fn release_permit(
        &self,
        request: Request<ReleasePermitRequest>,
    ) -> Answer<ReleasePermitResponse> {
        answer(self.release(request.into_inner()).await)
    }

    async fn create_barrier(
        &self,
        request: Request<CreateBarrierRequest>,
    ) -> Answer<CreateBarrierResponse> {
        answer(self.create(request.into_inner()).await)
    }

    async fn arrive_at_barrier(
        &self,
        request: Request<ArriveAtBarrierRequest>,
    ) -> Answer<ArriveAtBarrierResponse> {
        answer(self.arrive(request.into_inner()).await)
    }

    async fn get_barrier(&self, request: Request<GetBarrierRequest>) -> Answer<GetBarrierResponse> {
        answer(self.barrier(request.into_inner()).await)
    }
}

impl StateCalls {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    fn reading(&self) -> Reading {
        let Context { seal, hasher, limits, .. } = self.context;
        Reading { seal, hasher, limits }
    }

    async fn put(&self, request: PutValueRequest) -> Result<PutValueResponse, Fault> {
        let store = state::store_value(state::needed("value", request.value)?)?;
        let engine = &self.context.engine;
        let permit = engine.reserve(store.value.len()).await;
        let stored = engine.call_with(permit, |core, now, out| core.store_value(&store, now, out));
        Ok(PutValueResponse { stored: flat(stored.await)? })
    }

    async fn values(
        &self,
        request: BatchGetValuesRequest,
    ) -> Result<BatchGetValuesResponse, Fault> {
        let keys = state::keys(request.keys)?;
        let until = Instant::now() + state::wait(request.wait_timeout)?;
        let engine = &self.context.engine;
        let watching = engine.watch_state(Kind::Value, &keys);
        loop {
            let changed = watching.changed();
            let values = self.read(&keys).await?;
            let all_are_there = keys.iter().all(|key| values.contains_key(&**key));
            if all_are_there || until <= Instant::now() {
                return Ok(BatchGetValuesResponse { values });
            }
            self.wait(changed, until).await?;
        }
    }

    /// The values that are there, read from the log.
    async fn read(&self, keys: &[Key]) -> Result<HashMap<String, Bytes>, Fault> {
        let engine = &self.context.engine;
        loop {
            let now = engine.clock().now();
            let found = engine
                .ask(|core| {
                    let found = |key: &Key| Some((key.clone(), core.value_at(key, now)?));
                    keys.iter().filter_map(found).collect::<Vec<_>>()
                })
                .await?;
            let size: u64 = found.iter().map(|(_, (_, size))| u64::from(*size)).sum();
            if VALUES_BYTES_MAX < size {
                let (size, limit) = (size, VALUES_BYTES_MAX);
                let (size, limit) = (usize_of(size), usize_of(limit));
                return Err(Fault::BatchTooLarge { size, limit, unit: "bytes of values" });
            }
            let records = found.iter().map(|(_, (record, _))| *record).collect();
            let read = engine.read(records).await?;
            let mut values = HashMap::with_capacity(found.len());
            let mut failed = None;
            for ((key, at), record) in found.into_iter().zip(read) {
                match record {
                    Ok(record) => {
                        let value = Bytes::from(record.body.parts().concat());
                        values.insert(key.to_string(), value);
                    }
                    Err(error) => failed = Some((key, at, error)),
                }
            }
            match failed {
                None => return Ok(values),
                // Another value took its place meanwhile, and the log has let the first one go.
                Some((key, at, _))
                    if engine.look(|core| core.value_at(&key, now)).1 != Some(at) => {}
                Some((_, _, error)) => return Err(error.into()),
            }
        }
    }

    async fn delete(&self, request: DeleteValueRequest) -> Result<DeleteValueResponse, Fault> {
        let key = state::key("key", request.key)?;
        let engine = &self.context.engine;
        let deleted = engine.call(|core, now, out| core.delete_value(&key, now, out)).await;
        Ok(DeleteValueResponse { deleted: flat(deleted)? })
    }

    async fn change(&self, request: ChangeCounterRequest) -> Result<ChangeCounterResponse, Fault> {
        let change = state::change_counter(request)?;
        let engine = &self.context.engine;
        let changed = engine.call(|core, now, out| core.change_counter(&change, now, out)).await;
        let changed = flat(changed)?;
        Ok(ChangeCounterResponse { applied: changed.applied, value: changed.value })
    }

    async fn counters(
        &self,
        request: BatchGetCountersRequest,
    ) -> Result<BatchGetCountersResponse, Fault> {
        let keys = state::keys(request.keys)?;
        let engine = &self.context.engine;
        let now = engine.clock().now();
        let values = engine.ask(|core| {
            let value = |key: &Key| Some((key.to_string(), core.counter(key, now)?));
            keys.iter().filter_map(value).collect()
        });
        Ok(BatchGetCountersResponse { values: values.await? })
    }

    async fn acquire(&self, request: AcquirePermitRequest) -> Result<AcquirePermitResponse, Fault> {
        let (acquire, wait) = state::acquire_permit(request, self.reading())?;
        let until = Instant::now() + wait;
        let engine = &self.context.engine;
        // Who does not wait is in nobody's way.
        let watch = || engine.watch_permits(&acquire.key, acquire.limit);
        let watching = (!wait.is_zero()).then(watch);
        loop {
            let changed = watching.as_ref().map(Watching::changed);
            let waiter = watching.as_ref().map(Watching::waiter);
            let taken =
                engine.call(|core, now, out| core.acquire_permit(&acquire, waiter, now, out)).await;
            let taken = flat(taken)?;
            match changed.filter(|_| taken.is_none() && Instant::now() < until) {
                Some(changed) => self.wait(changed, until).await?,
                None => {
                    let permit_id = taken.map(|id| id.to_string()).unwrap_or_default();
                    return Ok(AcquirePermitResponse { acquired: taken.is_some(), permit_id });
                }
            }
        }
    }

    async fn release(&self, request: ReleasePermitRequest) -> Result<ReleasePermitResponse, Fault> {
        let id = PermitId::parse(&request.permit_id);
        let unknown = || Fault::invalid("permit_id", "this broker never gave such an id");
        let id = id.ok_or_else(unknown)?;
        let engine = &self.context.engine;
        let released = engine.call(|core, _, out| core.release_permit(id, out)).await;
        Ok(ReleasePermitResponse { released: flat(released)? })
    }

    async fn create(&self, request: CreateBarrierRequest) -> Result<CreateBarrierResponse, Fault> {
        let create = state::create_barrier(request, self.reading())?;
        let engine = &self.context.engine;
        let created = engine.call(|core, now, out| core.create_barrier(&create, now, out)).await;
        Ok(CreateBarrierResponse { created: flat(created)? })
    }

    async fn arrive(
        &self,
        request: ArriveAtBarrierRequest,
    ) -> Result<ArriveAtBarrierResponse, Fault> {
        let arrive = state::needed("arrive", request.arrive)?;
        let arrive = state::arrive(arrive, self.context.hasher)?;
        let engine = &self.context.engine;
        let arrived = flat(engine.call(|core, now, out| core.arrive(&arrive, now, out)).await)?;
        let barrier = arrived.barrier.map(|view| state::barrier(&arrive.key, view));
        Ok(ArriveAtBarrierResponse { barrier, last: arrived.last })
    }

    async fn barrier(&self, request: GetBarrierRequest) -> Result<GetBarrierResponse, Fault> {
        let key = state::key("key", request.key)?;
        let until = Instant::now() + state::wait(request.wait_timeout)?;
        let engine = &self.context.engine;
        let watching = engine.watch_state(Kind::Barrier, std::slice::from_ref(&key));
        loop {
            let changed = watching.changed();
            let now = engine.clock().now();
            let view = engine.ask(|core| core.barrier(&key, now)).await?;
            let is_open = |view: BarrierView| view.state == State::Open;
            if !view.is_some_and(is_open) || until <= Instant::now() {
                let barrier = view.map(|view| state::barrier(&key, view));
                return Ok(GetBarrierResponse { barrier });
            }
            self.wait(changed, until).await?;
        }
    }

    /// Waits for a change of what is watched, until then at most.
    async fn wait(&self, changed: impl Future<Output = ()>, until: Instant) -> Result<(), Fault> {
        tokio::select! {
            () = changed => Ok(()),
            () = tokio::time::sleep_until(until) => Ok(()),
            _ = self.context.stopping() => Err(Fault::ShuttingDown),
        }
    }
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
