//! What a group comes to: barriers, and jobs that arrive at them.

use super::{Group, Member, SentGroup};
use crate::barrier::JobBarrier;
use crate::draft::Draft;
use crate::outgoing::{OutgoingJob, SendError};
use crate::overrides;
use crate::pipeline::Pipeline;

/// What is to be sent for a group and those within it: the barriers first.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) barriers: Vec<JobBarrier>,
    pub(super) jobs: Vec<OutgoingJob>,
}

/// Those who arrive at one barrier.
struct Parties {
    barrier: String,
    /// What they return is wanted there.
    collects: bool,
    /// The last message of each.
    message_ids: Vec<String>,
}

/// Messages that are sent at once, and their bytes: what a broker takes by default, with room.
const BATCH_MESSAGES: usize = 1_000;
const BATCH_BYTES: usize = 4 << 20;

impl Plan {
    /// Adds a group by this name.
    ///
    /// # Errors
    ///
    /// It has no members, or a job of it cannot be written.
    pub(super) fn add(&mut self, group: Group, id: &str) -> Result<SentGroup, SendError> {
        let Group { members, on_complete, on_expire, ttl, .. } = group;
        let collects = on_complete.iter().any(Pipeline::fills);
        let key = format!("group/{id}");
        let mut parties = Parties { barrier: key.clone(), collects, message_ids: Vec::new() };
        self.take_in(members, id, &mut parties)?;
        let message_ids = parties.message_ids;
        let count = message_ids.len().try_into().unwrap_or(u32::MAX);
        let mut barrier = JobBarrier::new(key.clone(), count).ttl(ttl);
        for (number, pipeline) in on_complete.into_iter().enumerate() {
            barrier = barrier.on_complete(pipeline.into_job(&format!("{id}-c{number}"))?.0);
        }
        for (number, pipeline) in on_expire.into_iter().enumerate() {
            barrier = barrier.on_expire(pipeline.into_job(&format!("{id}-x{number}"))?.0);
        }
        self.barriers.push(barrier);
        Ok(SentGroup { barrier: key, message_ids })
    }

    fn take_in(
        &mut self,
        members: Vec<Member>,
        id: &str,
        parties: &mut Parties,
    ) -> Result<(), SendError> {
        if members.is_empty() {
            return Err(SendError::EmptyGroup);
        }
        for (number, member) in members.into_iter().enumerate() {
            let id = format!("{id}-{number}");
            match member {
                Member::Pipeline(pipeline) => self.jobs.push(parties.enrol(pipeline, &id)?),
                Member::Group(group) if !group.on_complete.is_empty() => {
                    self.take_in_completed(group, &id, parties)?;
                }
                Member::Group(group) if group.on_expire.is_empty() => {
                    self.take_in(group.members, &id, parties)?;
                }
                Member::Group(_) => return Err(SendError::NestedExpiry),
            }
        }
        Ok(())
    }

    /// A group that is as many members as it has completions.
    fn take_in_completed(
        &mut self,
        mut group: Group,
        id: &str,
        parties: &mut Parties,
    ) -> Result<(), SendError> {
        let completions = std::mem::take(&mut group.on_complete).into_iter().enumerate();
        for (number, pipeline) in completions {
            let job = parties.enrol(pipeline, &format!("{id}-c{number}"))?;
            group.on_complete.push(job.into());
        }
        self.add(group, id).map(drop)
    }
}

impl Parties {
    /// Lets a pipeline arrive when it has ended; its first job, which carries the others.
    fn enrol(&mut self, mut pipeline: Pipeline, id: &str) -> Result<OutgoingJob, SendError> {
        pipeline.set_header(overrides::GROUP, &self.barrier);
        pipeline.set_header(overrides::MEMBER, &self.message_ids.len().to_string());
        if self.collects {
            pipeline.set_header(overrides::BRINGS, "1");
        }
        let (job, mut ids) = pipeline.into_job(id)?;
        self.message_ids.push(ids.pop().expect("a pipeline has a last step"));
        Ok(job)
    }
}

/// Jobs in as few batches as a broker takes.
pub(super) fn batches(jobs: Vec<OutgoingJob>) -> Vec<Vec<OutgoingJob>> {
    let mut batches: Vec<Vec<OutgoingJob>> = Vec::new();
    let mut bytes = 0;
    for job in jobs {
        let size = size(&job.draft);
        bytes += size;
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_MESSAGES && bytes <= BATCH_BYTES => batch.push(job),
            _ => {
                bytes = size;
                batches.push(vec![job]);
            }
        }
    }
    batches
}

fn size(draft: &Draft) -> usize {
    let headers = draft.headers.iter().map(|(key, value)| key.len() + value.len());
    draft.payload.len() + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(bytes: usize) -> OutgoingJob {
        let draft = Draft { payload: vec![b' '; bytes], ..Draft::default() };
        OutgoingJob::of_draft(draft)
    }

    #[test]
    fn members_travel_in_batches_that_a_broker_takes() {
        let sizes = |jobs: Vec<OutgoingJob>| batches(jobs).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes((0..2_001).map(|_| job(1)).collect()), [1_000, 1_000, 1]);
        assert_eq!(
            sizes(vec![job(BATCH_BYTES - 1), job(1), job(1), job(BATCH_BYTES + 1)]),
            [2, 1, 1]
        );
    }

    /// Which barrier each job arrives at, and as whom.
    fn arrivals<'a>(jobs: impl IntoIterator<Item = &'a OutgoingJob>) -> Vec<String> {
        let arrival = |job: &OutgoingJob| {
            let headers = &job.draft.headers;
            format!("{} {}", headers[overrides::GROUP], headers[overrides::MEMBER])
        };
        jobs.into_iter().map(arrival).collect()
    }

    #[test]
    fn a_group_within_another_is_its_members_or_its_completion() {
        let plain = Group::new([job(1), job(2)]);
        let completed = Group::new([job(3)]).on_complete(job(4));
        let mut plan = Plan::default();
        let group = Group::new([job(0)]).nest(plain).nest(completed);
        let sent = plan.add(group, "g").expect("it can be written");
        assert_eq!(arrivals(&plan.jobs), ["group/g 0", "group/g 1", "group/g 2", "group/g-2 0"]);
        assert_eq!(sent.message_ids, ["g-0-0", "g-1-0-0", "g-1-1-0", "g-2-c0-0"]);
        let [within, around] = &plan.barriers[..] else { panic!("{:?}", plan.barriers) };
        assert_eq!((within.key(), within.parties()), ("group/g-2", 1));
        assert_eq!((around.key(), around.parties()), ("group/g", 4));

        let empty = Group::new([job(0)]).nest(Group::new(Vec::<Pipeline>::new()));
        assert!(matches!(plan.add(empty, "e"), Err(SendError::EmptyGroup)));
        let deaf = Group::new([job(0)]).nest(Group::new([job(1)]).on_expire(job(2)));
        assert!(matches!(plan.add(deaf, "d"), Err(SendError::NestedExpiry)));
    }
}
