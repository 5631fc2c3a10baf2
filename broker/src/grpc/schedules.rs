//! Schedules: messages that the broker publishes by itself.

use qbroker_proto::v1::schedule_service_server::ScheduleService;
use qbroker_proto::v1::*;
use tonic::{Request, Response, Status};

use super::Context;
use super::convert::schedule;
use super::convert::state::needed;
use super::fault::{Fault, flat};
use super::listing::{from_token, page, page_size, to_token};

/// `ScheduleService`.
#[derive(Clone, Debug)]
pub(super) struct Schedules {
    context: Context,
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(done: Result<T, Fault>) -> Answer<T> {
    done.map(Response::new).map_err(|fault| fault.to_status())
}

#[tonic::async_trait]
impl ScheduleService for Schedules {
    async fn put_schedule(
        &self,
        request: Request<PutScheduleRequest>,
    ) -> Answer<PutScheduleResponse> {
        let put = self.put(request.into_inner()).await;
        answer(put.map(|schedule| PutScheduleResponse { schedule: Some(schedule) }))
    }

    async fn get_schedule(
        &self,
        request: Request<GetScheduleRequest>,
    ) -> Answer<GetScheduleResponse> {
        let found = self.get(&request.into_inner().name).await;
        answer(found.map(|schedule| GetScheduleResponse { schedule: Some(schedule) }))
    }

    async fn list_schedules(
        &self,
        request: Request<ListSchedulesRequest>,
    ) -> Answer<ListSchedulesResponse> {
        answer(self.list(&request.into_inner()).await)
    }

    async fn pause_schedule(
        &self,
        request: Request<PauseScheduleRequest>,
    ) -> Answer<PauseScheduleResponse> {
        let paused = self.pause(&request.into_inner().name, true).await;
        answer(paused.map(|schedule| PauseScheduleResponse { schedule: Some(schedule) }))
    }

    async fn resume_schedule(
        &self,
        request: Request<ResumeScheduleRequest>,
    ) -> Answer<ResumeScheduleResponse> {
        let resumed = self.pause(&request.into_inner().name, false).await;
        answer(resumed.map(|schedule| ResumeScheduleResponse { schedule: Some(schedule) }))
    }

    async fn delete_schedule(
        &self,
        request: Request<DeleteScheduleRequest>,
    ) -> Answer<DeleteScheduleResponse> {
        let name = request.into_inner().name;
        let engine = &self.context.engine;
        let deleted = engine.call(|core, _, out| core.delete_schedule(&name, out)).await;
        answer(flat(deleted).map(|()| DeleteScheduleResponse {}))
    }

    async fn trigger_schedule(
        &self,
        request: Request<TriggerScheduleRequest>,
    ) -> Answer<TriggerScheduleResponse> {
        answer(self.trigger(&request.into_inner().name).await)
    }
}

impl Schedules {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    async fn put(&self, request: PutScheduleRequest) -> Result<Schedule, Fault> {
        self.context.check_running()?;
        let asked = needed("schedule", request.schedule)?;
        let put = schedule::put(asked, self.context.hasher)?;
        let engine = &self.context.engine;
        let done = engine.call(|core, now, out| core.put_schedule(&put, now, out)).await;
        Ok(schedule::told(&flat(done)?))
    }

    async fn get(&self, name: &str) -> Result<Schedule, Fault> {
        let found = self.context.engine.ask(|core| core.schedule_named(name).cloned()).await?;
        Ok(schedule::told(&found?))
    }

    async fn list(&self, request: &ListSchedulesRequest) -> Result<ListSchedulesResponse, Fault> {
        let size = page_size(request.page_size)?;
        let question = ["schedules"];
        let after = match &*request.page_token {
            "" => "",
            token => from_token(&question, token)?,
        };
        // One more than the page tells whether there is another.
        let engine = &self.context.engine;
        let found = engine
            .ask(|core| core.schedules_after(after).take(size + 1).cloned().collect::<Vec<_>>());
        let (schedules, is_more) = page(found.await?.iter().map(schedule::told), size);
        let last = schedules.last().filter(|_| is_more).map(|it| to_token(&question, &it.name));
        Ok(ListSchedulesResponse { schedules, next_page_token: last.unwrap_or_default() })
    }

    async fn pause(&self, name: &str, paused: bool) -> Result<Schedule, Fault> {
        let engine = &self.context.engine;
        let done = engine.call(|core, now, out| core.pause_schedule(name, paused, now, out)).await;
        Ok(schedule::told(&flat(done)?))
    }

    async fn trigger(&self, name: &str) -> Result<TriggerScheduleResponse, Fault> {
        self.context.check_running()?;
        let engine = &self.context.engine;
        let done = engine.call(|core, now, out| core.trigger_schedule(name, now, out)).await;
        let receipt = flat(done)?;
        let message_id = match receipt.duplicate {
            true => String::new(),
            false => format!("q.{}", receipt.birth),
        };
        Ok(TriggerScheduleResponse { message_id, duplicate: receipt.duplicate })
    }
}
