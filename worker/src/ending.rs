//! Tells the broker how a job has ended, with all that follows from it.

use std::time::{Duration, Instant};

use qbroker_client::{Delivery, Error, Settlement as Whole, Settling};
use tracing::{error, warn};

use crate::actor::ActorOptions;
use crate::context::Context;
use crate::defaults::Defaults;
use crate::failure::{BoxError, JobError, JobResult, Verdict};
use crate::follow_up::FollowUp;
use crate::middleware::Settlement;
use crate::outgoing::SendError;
use crate::settle;
use crate::worker::Shared;

/// How long a settlement that is refused for now waits until it is tried again, at first and in the
/// end.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A job that has ended, or could not begin.
pub(crate) struct Ending<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) context: &'a Context,
    pub(crate) options: &'a ActorOptions,
    pub(crate) treatment: &'a Defaults,
}

/// What the broker was told in the end, and what it answered.
pub(crate) type Settled = (Settlement, Result<(), Error>);

impl Ending<'_> {
    /// Tells the broker and hears its answer; `None` where there is nothing to tell.
    pub(crate) async fn tell(
        &self,
        delivery: Delivery,
        result: &JobResult,
        settlement: Settlement,
    ) -> Option<Settled> {
        match self.begin(delivery, result, settlement)? {
            Telling::OnItsWay(settling) => Some((settlement, settling.await)),
            Telling::Followed(followed) => self.follow(followed, result, settlement).await,
        }
    }

    /// Tells the broker where nothing follows; `None` where there is nothing to tell.
    pub(crate) fn begin(
        &self,
        delivery: Delivery,
        result: &JobResult,
        settlement: Settlement,
    ) -> Option<Telling> {
        let whole = self.whole(result, settlement)?;
        Some(match self.follow_up(result, settlement) {
            None => Telling::OnItsWay(delivery.settle(whole)),
            Some(follow_up) => Telling::Followed(Box::new(Followed { delivery, whole, follow_up })),
        })
    }

    /// Tells the broker of an end that something follows; `None` where there is nothing to tell.
    ///
    /// A job that was done but whose follow-up the broker does not take is done again rather than
    /// forgotten; one that has failed has failed anyhow.
    pub(crate) async fn follow(
        &self,
        followed: Box<Followed>,
        result: &JobResult,
        settlement: Settlement,
    ) -> Option<Settled> {
        let (delivery, why) = match self.tell_all(followed).await {
            Told::Answered(settled) => return Some((settlement, settled)),
            Told::Refused(delivery, why) => (delivery, why),
        };
        error!(error = %why.text, "what follows the job is refused");
        if settlement != Settlement::Ack {
            return self.tell_without_callbacks(delivery, result, settlement).await;
        }
        let text = format!("what follows the job is refused: {}", why.text);
        // What cannot be read now will never be.
        let verdict = if why.is_final { Verdict::GiveUp } else { Verdict::Retry { delay: None } };
        let failed = Err(JobError::of_kind("CallbackNotSent", text, verdict));
        let settlement = settle::decide(&failed, self.context, self.treatment, rand::random());
        // A failure: where what follows it is refused as well, it is told without that.
        Box::pin(self.tell(delivery, &failed, settlement)).await
    }

    /// What follows a job with this end; `None`: nothing.
    fn follow_up(&self, result: &JobResult, settlement: Settlement) -> Option<Following> {
        let Self { context, options, treatment, .. } = self;
        let follow_up = FollowUp::of(context, options, treatment, result, settlement);
        Some(follow_up).filter(|follow_up| !follow_up.as_ref().is_ok_and(FollowUp::is_empty))
    }

    /// Tells the settlement and what follows from it, as one; waits for a while where that is refused
    /// for now.
    async fn tell_all(&self, followed: Box<Followed>) -> Told {
        let Followed { mut delivery, whole, follow_up } = *followed;
        let (context, broker) = (self.context, &self.shared.broker);
        let mut follow_up = match follow_up {
            Ok(follow_up) => follow_up,
            Err(why) => {
                return Told::Refused(delivery, Why { text: why.to_string(), is_final: true });
            }
        };
        let whole = context.clone().scope_blocking(|| follow_up.add_to(whole, broker, context));
        let tried = match whole {
            Ok(whole) => self.try_for_a_while(&mut delivery, whole).await.map_err(SendError::from),
            Err(error) => Err(error),
        };
        follow_up.sent(broker, tried.as_ref().copied());
        match tried {
            Err(SendError::Broker(error))
                if !matches!(error, Error::Refused(_)) || delivery.is_settled() =>
            {
                Told::Answered(Err(error))
            }
            Err(error) => Told::Refused(delivery, Why { text: error.to_string(), is_final: false }),
            Ok(()) => Told::Answered(Ok(())),
        }
    }

    async fn try_for_a_while(&self, delivery: &mut Delivery, whole: Whole) -> Result<(), Error> {
        let (started, patience) = (Instant::now(), self.shared.broker.patience());
        let mut wait = FIRST_WAIT;
        loop {
            let tried = delivery.try_settle(whole.clone()).await;
            let Err(error @ Error::Refused(_)) = &tried else { return tried };
            if !error.is_for_now() || patience <= started.elapsed() + wait {
                return tried;
            }
            warn!(%error, "what follows the job is refused for now");
            tokio::select! {
                () = tokio::time::sleep(error.retry_delay().unwrap_or(wait)) => {}
                () = self.shared.life.giving_up() => return tried,
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Tells the failure without the jobs that it should send: whoever waits for its result, or for it as
    /// a member of a group, is told all the same, where the broker takes that.
    async fn tell_without_callbacks(
        &self,
        mut delivery: Delivery,
        result: &JobResult,
        settlement: Settlement,
    ) -> Option<Settled> {
        let alone = self.whole(result, settlement)?;
        let (context, broker) = (self.context, &self.shared.broker);
        let rest = FollowUp::without_jobs(context, self.treatment, result, settlement);
        if rest.as_ref().is_ok_and(FollowUp::is_empty) {
            return Some((settlement, delivery.settle(alone).await));
        }
        let rest = rest.map_err(|why| why.to_string()).and_then(|mut rest| {
            rest.add_to(alone.clone(), broker, context).map_err(|why| why.to_string())
        });
        let why = match rest {
            Ok(rest) => match delivery.try_settle(rest).await {
                Err(why @ Error::Refused(_)) if !delivery.is_settled() => why.to_string(),
                settled => return Some((settlement, settled)),
            },
            Err(why) => why,
        };
        error!(error = %why, "who waits for the job is not told of its failure");
        Some((settlement, delivery.settle(alone).await))
    }

    fn whole(&self, result: &JobResult, settlement: Settlement) -> Option<Whole> {
        settle::whole(settlement, result.as_ref().err(), self.context.leased(), self.treatment)
    }
}

/// How the broker is told.
pub(crate) enum Telling {
    /// Nothing follows, and the answer comes.
    OnItsWay(Settling),
    Followed(Box<Followed>),
}

/// The end of a job that something follows.
pub(crate) struct Followed {
    delivery: Delivery,
    whole: Whole,
    follow_up: Following,
}

/// What follows a job, or why that cannot be told.
type Following = Result<FollowUp, BoxError>;

/// Why what follows a job is not taken.
struct Why {
    text: String,
    /// It will not be taken another time either.
    is_final: bool,
}

/// What came of telling the broker how a job ended.
enum Told {
    /// It has answered.
    Answered(Result<(), Error>),
    /// It does not take what follows from it: nothing was done.
    Refused(Delivery, Why),
}
