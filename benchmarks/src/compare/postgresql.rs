//! PostgreSQL: a table as a queue, read with `FOR UPDATE SKIP LOCKED`.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tokio::process::Command;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

use super::in_flight::InFlight;
use super::peer::{About, Confirm, Entry, Found, Missing, Name, Peer};
use super::program;
use crate::machine::Machine;
use crate::process::ServerProcess;
use crate::round_trip::Trip;
use crate::system::{self, Fallible, System};

/// Where the programs are and who may run them.
#[derive(Debug)]
pub(crate) struct Setup {
    programs: PathBuf,
    account: Option<Account>,
    shared_buffers_mib: u64,
}

/// Whom the server runs as: it refuses to run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Account {
    user: u32,
    group: u32,
}

/// Debian's folder of all versions; the newest is taken.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The account that the system's package makes.
const ACCOUNT: &str = "postgres";

/// PostgreSQL, if it is installed.
pub(super) async fn find() -> Fallible<Found> {
    let name = Name::Postgresql;
    let missing = |reason: String, package| Ok(Found::Missing(Missing { name, reason, package }));
    let Some(programs) = newest_version() else {
        return missing("postgresql is not installed".to_owned(), Some("postgresql"));
    };
    let mut account = None;
    if rustix::process::geteuid().is_root() {
        account = find_account(&std::fs::read_to_string("/etc/passwd")?);
        if account.is_none() {
            let reason = format!("it does not run as root, and there is no account {ACCOUNT}");
            return missing(reason, Some("postgresql"));
        }
    }
    let memory_bytes = Machine::describe(&std::env::temp_dir())?.memory_bytes;
    // A quarter of the memory is where its manual says to begin.
    let shared_buffers_mib = (memory_bytes / 4) >> 20;
    let about = About {
        name,
        title: "PostgreSQL, SKIP LOCKED",
        version: program::version(&programs.join("postgres"), "--version").await?,
        confirm: Confirm {
            synced: true,
            means: "fdatasync of its log, together with commits that wait",
        },
        settings: format!(
            "synchronous_commit on, shared_buffers {shared_buffers_mib} MB, max_wal_size 4GB; a batch \
             is one INSERT, on {PUBLISHING} connections; {BATCH_MAX} rows are taken by DELETE ... FOR \
             UPDATE SKIP LOCKED, COMMIT is the ack, as many connections as fill the window"
        ),
    };
    Ok(Entry::<Postgresql>::ready(about, Setup { programs, account, shared_buffers_mib }))
}

fn newest_version() -> Option<PathBuf> {
    let versions = std::fs::read_dir(VERSIONS).ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((version, entry.path().join("bin")))
    });
    let complete =
        |folder: &Path| ["postgres", "initdb"].iter().all(|it| folder.join(it).is_file());
    versions.filter(|(_, folder)| complete(folder)).max().map(|(_, folder)| folder)
}

/// Out of the lines of `/etc/passwd`.
fn find_account(accounts: &str) -> Option<Account> {
    let mut lines = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let fields = lines.find(|fields| fields.first() == Some(&ACCOUNT))?;
    Some(Account { user: fields.get(2)?.parse().ok()?, group: fields.get(3)?.parse().ok()? })
}

/// Connections that publish: enough for commits to share a sync.
const PUBLISHING: usize = 16;

/// Rows that one transaction takes.
const BATCH_MAX: u32 = 100;

/// How long nobody asks again after nothing was there, unless a notice comes.
const POLL: Duration = Duration::from_millis(1);

/// What notices are sent by; only where one message at a time is on its way, because commits with
/// notices wait for each other.
const CHANNEL: &str = "published";

/// A server of its own.
#[derive(Debug)]
pub(crate) struct Postgresql {
    server: ServerProcess,
    port: u16,
}

impl Peer for Postgresql {
    type Setup = Setup;

    async fn start(setup: &Setup, folder: &Path) -> Fallible<Self> {
        let data = folder.join("data");
        if !data.exists() {
            create(setup, folder, &data).await?;
        }
        let port = program::free_port()?;
        let mut command = command(setup, "postgres", folder);
        command.arg("-D").arg(&data);
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            format!("unix_socket_directories={}", folder.display()),
            "max_connections=200".to_owned(),
            "synchronous_commit=on".to_owned(),
            format!("shared_buffers={}MB", setup.shared_buffers_mib),
            "max_wal_size=4GB".to_owned(),
            // In the folder, where it goes with it.
            "dynamic_shared_memory_type=mmap".to_owned(),
        ] {
            command.arg("-c").arg(setting);
        }
        // Killed, it would leave a piece of the system's shared memory behind.
        let server = ServerProcess::spawn(command)?.ends_by(rustix::process::Signal::INT);
        let postgresql = Self { server, port };
        postgresql.server.until(|| postgresql.connect()).await?;
        Ok(postgresql)
    }
}

/// A program of PostgreSQL, run by who may.
fn command(setup: &Setup, program: &str, folder: &Path) -> Command {
    let mut command = Command::new(setup.programs.join(program));
    command.current_dir(folder);
    if let Some(account) = setup.account {
        command.uid(account.user).gid(account.group);
    }
    command
}

async fn create(setup: &Setup, folder: &Path, data: &Path) -> Fallible<()> {
    if let Some(account) = setup.account {
        chown(folder, Some(account.user), Some(account.group))?;
    }
    let mut command = command(setup, "initdb", folder);
    command.arg("-D").arg(data).args(["-U", ACCOUNT, "-A", "trust", "-E", "UTF8", "--locale=C"]);
    let output = command.output().await.context("cannot run initdb")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "initdb: {}: {words}", output.status);
    Ok(())
}

/// A connection and what runs it.
#[derive(Debug)]
struct Link {
    client: Arc<Client>,
    /// Ends with it.
    _running: JoinSet<()>,
}

impl Postgresql {
    async fn connect(&self) -> Fallible<Link> {
        self.connect_and(|| {}).await
    }

    /// A connection that says when a notice has come.
    async fn connect_and(&self, noticed: impl Fn() + Send + 'static) -> Fallible<Link> {
        let address = format!("host=127.0.0.1 port={} user={ACCOUNT} dbname=postgres", self.port);
        let (client, mut connection) = tokio_postgres::connect(&address, NoTls).await?;
        let mut running = JoinSet::new();
        running.spawn(async move {
            // Its end shows in what is asked of the client.
            while let Some(Ok(message)) =
                std::future::poll_fn(|cx| connection.poll_message(cx)).await
            {
                if matches!(message, AsyncMessage::Notification(_)) {
                    noticed();
                }
            }
        });
        Ok(Link { client: Arc::new(client), _running: running })
    }

    async fn create(&self, queue: &str) -> Fallible<()> {
        let table = format!(
            "CREATE TABLE IF NOT EXISTS \"{queue}\" (
                id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload bytea NOT NULL)"
        );
        Ok(self.connect().await?.client.batch_execute(&table).await?)
    }

    async fn publisher_on(
        &self,
        queue: &str,
        connections: usize,
        notice: &str,
    ) -> Fallible<Publisher> {
        self.create(queue).await?;
        let insert = format!(
            "WITH stored AS (
                INSERT INTO \"{queue}\" (payload) SELECT unnest($1::bytea[]) RETURNING id)
            SELECT (SELECT count(*) FROM stored){notice}"
        );
        let mut links = Vec::new();
        for _ in 0..connections {
            let link = self.connect().await?;
            let insert = link.client.prepare(&insert).await?;
            links.push((link, insert));
        }
        Ok(Publisher { links, turn: 0, in_flight: InFlight::default() })
    }
}

impl System for Postgresql {
    type Publisher = Publisher;
    type Consumer = Consumer;
    type RoundTrip = Trip<Publisher, Consumer>;

    const NAME: &'static str = "PostgreSQL";

    fn server(&self) -> &ServerProcess {
        &self.server
    }

    async fn publisher(&self, queue: &str) -> Fallible<Publisher> {
        self.publisher_on(queue, PUBLISHING, "").await
    }

    async fn consumer(&self, queue: &str, window: u32) -> Fallible<Consumer> {
        self.create(queue).await?;
        let idle = Arc::new(Idle::default());
        let told = Arc::clone(&idle);
        let listener = self.connect_and(move || told.notice.notify_one()).await?;
        listener.client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
        let rows = window.min(BATCH_MAX);
        let take = format!(
            "DELETE FROM \"{queue}\" WHERE id = ANY(ARRAY(
                SELECT id FROM \"{queue}\" ORDER BY id LIMIT {rows} FOR UPDATE SKIP LOCKED))
            RETURNING payload"
        );
        let (batches, received) = mpsc::channel(1);
        let mut workers = JoinSet::new();
        for _ in 0..window.div_ceil(rows) {
            let link = self.connect().await?;
            let take = link.client.prepare(&take).await?;
            let worker = Worker { link, take, idle: Arc::clone(&idle), batches: batches.clone() };
            workers.spawn(worker.run());
        }
        let acking = InFlight::default();
        Ok(Consumer { batches: received, acking, _workers: workers, _listener: listener })
    }

    async fn round_trip(&self, queue: &str) -> Fallible<Self::RoundTrip> {
        let notice = format!(", pg_notify('{CHANNEL}', '')");
        let publisher = self.publisher_on(queue, 1, &notice).await?;
        Ok(Trip::new(publisher, self.consumer(queue, 1).await?))
    }

    fn needs_messages(&self) -> bool {
        true
    }

    async fn discard(&self, queue: &str) -> Fallible<()> {
        let drop = format!("DROP TABLE \"{queue}\"");
        Ok(self.connect().await?.client.batch_execute(&drop).await?)
    }
}

/// Inserts, on connections in turn.
#[derive(Debug)]
pub(crate) struct Publisher {
    links: Vec<(Link, Statement)>,
    turn: usize,
    in_flight: InFlight,
}

impl system::Publisher for Publisher {
    async fn offer(&mut self, payload: &Bytes, messages: usize) -> Fallible<()> {
        let (link, insert) = &self.links[self.turn % self.links.len()];
        self.turn += 1;
        let (client, insert, payload) = (Arc::clone(&link.client), insert.clone(), payload.clone());
        self.in_flight.add(async move {
            let rows = vec![&payload[..]; messages];
            let stored: i64 = client.query_one(&insert, &[&rows]).await?.get(0);
            ensure!(usize::try_from(stored)? == messages, "{stored} stored of {messages}");
            Ok(messages as u64)
        });
        Ok(())
    }

    async fn confirmed(&mut self) -> Fallible<u64> {
        self.in_flight.answered().await
    }
}

/// Rows that a transaction has taken, and who waits to commit it.
#[derive(Debug)]
pub(crate) struct Batch {
    payloads: Vec<tokio_postgres::Row>,
    ack: oneshot::Sender<oneshot::Sender<Fallible<()>>>,
}

/// Who found nothing waits here; one at a time asks again.
#[derive(Debug, Default)]
struct Idle {
    turn: Mutex<()>,
    notice: Notify,
}

impl Idle {
    async fn wait(&self) {
        let _turn = self.turn.lock().await;
        // Either way it is asked again.
        drop(tokio::time::timeout(POLL, self.notice.notified()).await);
    }
}

/// Takes batches on a connection of its own, one after the other.
#[derive(Debug)]
struct Worker {
    link: Link,
    take: Statement,
    idle: Arc<Idle>,
    batches: mpsc::Sender<Fallible<Batch>>,
}

impl Worker {
    /// Until it fails, which it says, or nobody takes batches any more.
    async fn run(self) {
        if let Err(error) = self.work().await {
            // Nobody listens to a consumer that is gone.
            drop(self.batches.send(Err(error)).await);
        }
    }

    async fn work(&self) -> Fallible<()> {
        let client = &self.link.client;
        loop {
            // Sent together; they are answered in order.
            let (_, payloads) =
                tokio::try_join!(client.batch_execute("BEGIN"), client.query(&self.take, &[]))?;
            if payloads.is_empty() {
                client.batch_execute("COMMIT").await?;
                self.idle.wait().await;
                continue;
            }
            let (ack, acked) = oneshot::channel();
            if self.batches.send(Ok(Batch { payloads, ack })).await.is_err() {
                return Ok(());
            }
            // Without an ack the end of the connection gives the rows back.
            let Ok(committed) = acked.await else { return Ok(()) };
            let outcome = client.batch_execute("COMMIT").await.context("cannot commit");
            // A consumer that is gone does not ask.
            drop(committed.send(outcome));
        }
    }
}

/// Hands out what its workers take.
#[derive(Debug)]
pub(crate) struct Consumer {
    batches: mpsc::Receiver<Fallible<Batch>>,
    acking: InFlight,
    _workers: JoinSet<()>,
    _listener: Link,
}

impl system::Consumer for Consumer {
    type Batch = Batch;

    async fn receive(&mut self) -> Fallible<Batch> {
        self.batches.recv().await.context("no worker is left")?
    }

    fn check(batch: &Batch, payload: &Bytes) -> Fallible<u64> {
        for row in &batch.payloads {
            let (found, expected) = (row.try_get::<_, &[u8]>(0)?.len(), payload.len());
            ensure!(found == expected, "PostgreSQL delivered {found} bytes instead of {expected}");
        }
        Ok(batch.payloads.len() as u64)
    }

    async fn ack(&mut self, batch: Batch) -> Fallible<()> {
        let messages = batch.payloads.len() as u64;
        let (committed, answer) = oneshot::channel();
        ensure!(batch.ack.send(committed).is_ok(), "a worker is gone");
        self.acking.add(async move {
            answer.await.context("a worker is gone")??;
            Ok(messages)
        });
        self.acking.already_answered()?;
        Ok(())
    }

    async fn acked(&mut self) -> Fallible<()> {
        self.acking.all_answered().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_is_found_by_its_name() {
        let accounts =
            "root:x:0:0:root:/root:/bin/bash\npostgres:x:101:104:PostgreSQL:/var:/bin/sh\n";
        assert_eq!(find_account(accounts), Some(Account { user: 101, group: 104 }));
        assert_eq!(find_account("root:x:0:0:root:/root:/bin/bash\n"), None);
    }
}
