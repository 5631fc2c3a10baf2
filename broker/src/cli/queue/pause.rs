//! `qbroker queue pause` and `resume`: queues stand still, and go on.

use clap::Args;
use qbroker_client::Client;

use crate::cli::Outcome;
use crate::cli::tally::Tally;

const PAUSE_HELP: &str = "\
What is with a consumer goes on and is settled as ever. A paused queue stays so when the broker is
restarted; `queue list` shows its state. Pausing it again replaces what was said before.";

#[derive(Debug, Args)]
#[command(after_help = PAUSE_HELP)]
pub(in crate::cli) struct PauseArgs {
    /// The queues.
    #[arg(required = true)]
    names: Vec<String>,
    /// Refuse publishes too.
    #[arg(long)]
    publishing: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ResumeArgs {
    /// The queues; one that is not paused is fine.
    #[arg(required = true)]
    names: Vec<String>,
}

impl PauseArgs {
    pub(super) async fn run(&self, client: &Client) -> Outcome {
        let mut tally = Tally::default();
        for name in &self.names {
            tally.count(client.pause_queue(name, self.publishing).await);
        }
        tally.outcome()
    }
}

impl ResumeArgs {
    pub(super) async fn run(&self, client: &Client) -> Outcome {
        let mut tally = Tally::default();
        for name in &self.names {
            tally.count(client.resume_queue(name).await);
        }
        tally.outcome()
    }
}
