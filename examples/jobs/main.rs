//! Counts the words of 100,000 passages of real text, while the broker is killed again and again.
//!
//! The passages go into a JSON-lines file, from there through the broker to a Rust worker and to a
//! few processes of `qbroker message consume --exec`, and their results into a table: each of them
//! there, each counted once, whatever was killed on the way.
//!
//! `cargo run -p qbroker-examples --bin jobs`; with `-- --jobs 2000 --shell-jobs 50 --kills 1` it is short.
#![expect(clippy::print_stdout, reason = "what it has to say is for whoever runs it")]

mod jobs;
mod text;
mod server;
mod publish;
mod rust_worker;
mod shell_workers;
mod tally;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use qbroker_client::Client;

use jobs::{Jobs, RUST_QUEUE, SHELL_QUEUE};
use server::Server;
use tally::Tally;

type Fallible<T> = anyhow::Result<T>;

/// Works on real jobs while the broker is killed, and counts what came out.
#[derive(Debug, Parser)]
#[command(name = "jobs", version, max_term_width = 100)]
struct Args {
    /// Jobs in all.
    #[arg(long, default_value_t = 100_000)]
    jobs: usize,
    /// Those of them for the shell workers, each a process of its own.
    #[arg(long, default_value_t = 3_000)]
    shell_jobs: usize,
    /// Processes of `qbroker message consume --exec`.
    #[arg(long, default_value_t = 3)]
    shell_workers: usize,
    /// How often the broker is killed while there is work.
    #[arg(long, default_value_t = 6)]
    kills: u32,
    /// The folder whose text is worked on.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.."))]
    text: PathBuf,
    /// An empty folder for jobs.jsonl, results.tsv and the broker's data; else a temporary one.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The broker's executable; by default the one that cargo builds, or the one beside this one.
    #[arg(long, value_name = "FILE")]
    qbroker: Option<PathBuf>,
}

impl Args {
    fn check(&self) -> Fallible<()> {
        let Self { jobs, shell_jobs, shell_workers, .. } = *self;
        ensure!(0 < jobs, "0 jobs are none");
        ensure!(shell_jobs <= jobs, "of {jobs} jobs, {shell_jobs} cannot be for shell workers");
        ensure!(0 < shell_workers || shell_jobs == 0, "{shell_jobs} jobs for 0 shell workers");
        Ok(())
    }
}

/// Longer than this means that something hangs; the whole takes about a minute.
const GIVE_UP: Duration = Duration::from_secs(15 * 60);

#[tokio::main]
async fn main() -> Fallible<()> {
    let args = Args::parse();
    let temporary;
    let dir = match &args.dir {
        Some(dir) => dir.as_path(),
        None => {
            temporary = tempfile::tempdir()?;
            temporary.path()
        }
    };
    run(&args, dir).await
}

async fn run(args: &Args, dir: &Path) -> Fallible<()> {
    args.check()?;
    let program = qbroker_program::find(args.qbroker.as_deref())?;
    let file = dir.join("jobs.jsonl");
    println!("made       {}", text::write_jobs(&args.text, &file, args.jobs, args.shell_jobs)?);
    let jobs = Jobs::read(&file)?;

    let mut server = Server::start(&program, &dir.join("data")).await?;
    let client = Client::connect(server.url()).await?;
    let tally = Arc::new(Tally::new(&jobs));
    let working = work(args, &program, &client, &mut server, &jobs, &tally);
    tokio::time::timeout(GIVE_UP, working).await.context("the work does not come to its end")??;

    server.kill_and_restart().await?;
    check_queues(&client, &jobs).await?;
    println!("killed     once more: nothing has come back, nothing is left");
    server.stop().await?;
    tally.write_results(&dir.join("results.tsv"))?;
    tally.check()?;
    println!("{tally}");
    Ok(())
}

/// Publishes, works and kills, all at once, until every job is done.
async fn work(
    args: &Args,
    program: &Path,
    client: &Client,
    server: &mut Server,
    jobs: &Jobs,
    tally: &Arc<Tally>,
) -> Fallible<()> {
    let started = Instant::now();
    let all_through = async {
        publish::publish(client, jobs, tally).await?;
        println!("published  {} jobs in {:.1?}", jobs.len(), started.elapsed());
        wait_empty(client, RUST_QUEUE).await?;
        wait_empty(client, SHELL_QUEUE).await?;
        tally.finish();
        Ok(())
    };
    let url = server.url();
    let ((), (), (), kills) = tokio::try_join!(
        all_through,
        rust_worker::work(client, tally),
        shell_workers::work(program, &url, args.shell_workers, tally),
        server.kill_on_the_way(args.kills, tally),
    )?;
    println!("worked     until nothing was left, {:.1?} in all", started.elapsed());
    ensure!(kills == args.kills, "of {} kills only {kills} came before the end", args.kills);
    Ok(())
}

/// Waits until a queue holds nothing: whatever was in it is settled, durably.
async fn wait_empty(client: &Client, queue: &str) -> Fallible<()> {
    while !client.wait_queue_empty(queue, Duration::from_secs(20)).await?.0 {}
    Ok(())
}

/// Compares the broker's own books, after a last kill, with what was done.
async fn check_queues(client: &Client, jobs: &Jobs) -> Fallible<()> {
    for name in [RUST_QUEUE, SHELL_QUEUE] {
        let (expected, stats) = (jobs.in_queue(name), client.get_queue(name).await?.stats);
        let left =
            stats.ready + stats.scheduled + stats.leased + stats.dead + stats.parked + stats.behind;
        ensure!(left == 0, "queue {name} still holds messages: {stats:?}");
        let told = (stats.published_total, stats.acked_total);
        ensure!(told == (expected, expected), "queue {name} had {expected} jobs: {stats:?}");
    }
    Ok(())
}
