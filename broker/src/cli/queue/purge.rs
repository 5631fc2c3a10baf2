//! `qbroker queue purge`: messages go, and the queue stays.

use clap::{Args, ValueEnum};
use qbroker::exit::Exit;
use qbroker_client::{Client, MessageState};

use super::view;
use crate::cli::Outcome;
use crate::cli::globals::Globals;

const PURGE_HELP: &str = "\
Dead letters of the queue are in another queue, which may hold those of other queues, too: with
--dead-letters those of this one go as well. To empty that queue of everything, purge it by its name.";

#[derive(Debug, Args)]
#[command(after_help = PURGE_HELP)]
pub(in crate::cli) struct PurgeArgs {
    /// The queue.
    name: String,
    /// Only messages in this state; may be repeated. All but leased ones where none is named.
    #[arg(long, value_name = "STATE")]
    state: Vec<State>,
    /// Also what came from this queue into its dead-letter queue.
    #[arg(long)]
    dead_letters: bool,
}

/// Where a message is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum State {
    /// Waiting for a consumer.
    Ready,
    /// Waiting for its time.
    Scheduled,
    /// With a consumer, which then loses it.
    Leased,
    /// Given up in place.
    Parked,
    /// Waiting for another one of its ordering key.
    Behind,
}

impl From<State> for MessageState {
    fn from(state: State) -> Self {
        match state {
            State::Ready => Self::Ready,
            State::Scheduled => Self::Scheduled,
            State::Leased => Self::Leased,
            State::Parked => Self::Parked,
            State::Behind => Self::Behind,
        }
    }
}

impl PurgeArgs {
    pub(super) async fn run(&self, client: &Client, globals: &Globals) -> Outcome {
        let queue = client.get_queue(&self.name).await?;
        let states = match self.state.as_slice() {
            [] => &[State::Ready, State::Scheduled, State::Parked, State::Behind][..],
            named => named,
        };
        let stats = &queue.stats;
        let held = |state: &State| match state {
            State::Ready => stats.ready,
            State::Scheduled => stats.scheduled,
            State::Leased => stats.leased,
            State::Parked => stats.parked,
            State::Behind => stats.behind,
        };
        let count: u64 = states.iter().map(held).sum();
        let letters = match &queue.policy.dead_letter_queue {
            Some(letters) if self.dead_letters => format!(" and its dead letters in {letters}"),
            _ => String::new(),
        };
        let what = format!("delete {count} messages of the queue {}{letters}", self.name);
        globals.confirm(&what)?;
        let states: Vec<MessageState> = states.iter().copied().map(MessageState::from).collect();
        let purged = match self.dead_letters {
            true => client.purge_queue_and_dead_letters(&self.name, &states).await?,
            false => client.purge_queue(&self.name, &states).await?,
        };
        view::print_purged(globals, purged)?;
        Ok(Exit::Ok)
    }
}
