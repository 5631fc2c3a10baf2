//! The workers that are no Rust: processes of `qbroker message consume --exec`, with some shell.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;

use crate::Fallible;
use crate::jobs::SHELL_QUEUE;
use crate::tally::{Tally, Worker};

/// Prints a result: the job's id and the words of the passage on stdin. It is one write of a short
/// line, so that programs that run at once do not tear each other's lines.
///
/// A worker that is killed may not have handed over the whole payload, and to the program that it
/// leaves behind the end of a part looks like any other: hence the comparison with the header.
/// The locale is the one in which awk counts bytes, and the record separator occurs in no text.
const COUNT_WORDS: &str = r#"
counts=$(LC_ALL=C awk -v RS='\001' '{ print NF, length }')
set -- $counts
if [ "$2" != "$QBROKER_MESSAGE_HEADER_BYTES" ]; then
    echo "$2 bytes of $QBROKER_MESSAGE_HEADER_BYTES" >&2
    exit 1
fi
printf '%s %s\n' "$QBROKER_MESSAGE_ID" "$1"
"#;

/// Programs that each worker runs at once.
const CONCURRENCY: &str = "2";

/// Runs `workers` processes until the tally is finished, and then stops them in order.
///
/// The first is killed half-way and another takes its place. What it was running ends without it
/// and prints its results, but nobody acks: these jobs come a second time once the broker has given
/// up the dead worker's session, after a grace of 15 s.
///
/// # Errors
///
/// A process cannot be started or ends otherwise than asked, or prints no result.
pub(crate) async fn work(
    program: &Path,
    url: &str,
    workers: usize,
    tally: &Arc<Tally>,
) -> Fallible<()> {
    let mut running = JoinSet::new();
    for number in 0..workers {
        let (program, url, tally) = (program.to_owned(), url.to_owned(), Arc::clone(tally));
        running.spawn(async move {
            if number == 0 {
                ShellWorker::start(&program, &url)?.work_and_die_half_way(&tally).await?;
            }
            ShellWorker::start(&program, &url)?.work_to_the_end(&tally).await
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.context("listening to a shell worker")??;
    }
    Ok(())
}

struct ShellWorker {
    child: Child,
    results: Lines<BufReader<ChildStdout>>,
}

impl ShellWorker {
    fn start(program: &Path, url: &str) -> Fallible<Self> {
        let mut command = Command::new(program);
        command.args(["message", "consume", SHELL_QUEUE, "--url", url]);
        command.args(["--concurrency", CONCURRENCY, "--exec", COUNT_WORDS]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn();
        let mut child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = child.stdout.take().expect("stdout is a pipe");
        Ok(Self { child, results: BufReader::new(stdout).lines() })
    }

    async fn work_and_die_half_way(mut self, tally: &Tally) -> Fallible<()> {
        tokio::select! {
            unasked = self.record_results(tally) => return unasked.and_then(|()| self.deserted()),
            _ = tally.reached(|now| now.finished || now.is_shell_half_done()) => {}
        }
        self.child.kill().await?;
        println!("killed     a shell worker; another takes its place");
        // The pipe is closed when the programs that it left behind have ended.
        self.record_results(tally).await
    }

    /// Works until the tally is finished; asked to finish, a worker ends with exit code 0.
    async fn work_to_the_end(mut self, tally: &Tally) -> Fallible<()> {
        tokio::select! {
            unasked = self.record_results(tally) => return unasked.and_then(|()| self.deserted()),
            () = tally.finished() => {}
        }
        let id = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        kill_process(id.context("a shell worker ended before the work did")?, Signal::TERM)?;
        let status = self.child.wait().await?;
        ensure!(status.success(), "a shell worker ended with {status}");
        Ok(())
    }

    /// Takes lines `ID WORDS` until there are no more.
    async fn record_results(&mut self, tally: &Tally) -> Fallible<()> {
        while let Some(line) = self.results.next_line().await? {
            let (id, words) = line.split_once(' ').with_context(|| format!("result {line:?}"))?;
            let words = words.parse().with_context(|| format!("result {line:?}"))?;
            tally.record(id, words, Worker::Shell)?;
        }
        Ok(())
    }

    fn deserted(&mut self) -> Fallible<()> {
        let status = self.child.try_wait()?;
        bail!("a shell worker ended before the work did: {status:?}")
    }
}
