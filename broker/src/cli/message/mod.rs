//! `qbroker message`: messages in and out of queues.

use clap::Subcommand;

use super::Outcome;
use super::globals::Globals;

mod atomic;
mod bulk;
mod consume;
pub(super) mod dress;
mod exec;
pub(super) mod filter;
mod find;
mod line;
pub(super) mod many;
mod named;
mod naming;
mod peek;
mod publish;
mod pull;
mod shares;
mod trace;
mod watch;
mod work;

pub(super) use named::GetArgs;
pub(super) use peek::listed_item;

#[derive(Debug, Subcommand)]
pub(super) enum MessageCommand {
    /// Publish one message, or a file of them.
    Publish(publish::PublishArgs),
    /// Take some messages off a queue and print them as JSON lines.
    Pull(pull::PullArgs),
    /// Look at messages without taking them.
    Peek(peek::PeekArgs),
    /// Take messages as they come: print them, or run a command for each.
    Consume(consume::ConsumeArgs),
    /// Show one message: its state, who has it, what its attempts told.
    Get(GetArgs),
    /// Change the priority or the time of messages.
    Update(named::UpdateArgs),
    /// Delete messages by their ids, or those that a filter means; whoever has one is told.
    Delete(named::DeleteArgs),
    /// Move messages to another queue; they keep their ids.
    Move(many::MoveArgs),
    /// Find dead letters, delayed messages and outcomes by id, correlation id or type.
    Find(find::FindArgs),
    /// Tell what happened to one message, from its publish on, or to those of a correlation id.
    Trace(trace::TraceArgs),
    /// Watch what happens to messages, as it happens or from an earlier sequence on.
    Watch(watch::WatchArgs),
}

impl MessageCommand {
    /// Runs one of them.
    pub(super) fn run(self, globals: &Globals) -> Outcome {
        globals.block_on(async {
            match &self {
                Self::Publish(args) => args.run(globals).await,
                Self::Pull(args) => args.run(globals).await,
                Self::Peek(args) => args.run(globals).await,
                Self::Consume(args) => args.run(globals).await,
                Self::Get(args) => args.run(globals).await,
                Self::Update(args) => args.run(globals).await,
                Self::Delete(args) => args.run(globals).await,
                Self::Move(args) => args.run(globals).await,
                Self::Find(args) => args.run(globals).await,
                Self::Trace(args) => args.run(globals).await,
                Self::Watch(args) => args.run(globals).await,
            }
        })
    }
}
