//! `compare`: the same work for every broker that is installed here, beside qbroker and the floor.

mod backlog;
mod beanstalkd;
mod chart;
#[cfg(feature = "peers")]
mod confirms;
#[cfg(feature = "peers")]
mod in_flight;
#[cfg(feature = "peers")]
mod nats;
mod own;
mod peer;
#[cfg(feature = "peers")]
mod postgresql;
mod program;
#[cfg(feature = "peers")]
mod rabbitmq;
#[cfg(not(feature = "peers"))]
mod rebuild;
#[cfg(feature = "peers")]
mod redis;
mod table;
mod turn;

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::ValueEnum as _;

use self::peer::{Contender, Found, Name};
use self::table::{Comparison, Entrant};
use crate::conditions::Watch;
use crate::machine::Machine;
use crate::place::{PlaceArgs, write_file};
use crate::process_tree;
use crate::row::Row;
use crate::samples::Samples;
use crate::settings::LoadArgs;
use crate::system::Fallible;

/// What `compare` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CompareArgs {
    /// Measures only these, separated by commas, and qbroker always
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Name>,
    #[command(flatten)]
    load: LoadArgs,
    /// How often each row is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Messages that wait when the broker is killed and started again; 0 leaves that out
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    backlog: u64,
    /// Draws the figures into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Prints the command that installs what is missing, and ends
    #[arg(long)]
    install_hint: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Why most are missing from a program without their clients.
#[cfg(not(feature = "peers"))]
const NO_CLIENTS: &str =
    "this program was built without its client: add --features peers to cargo run";

/// The rows that are measured for everybody.
const ROWS: [Row; 5] =
    [Row::PublishBatches, Row::PublishSingles, Row::Consume, Row::Both, Row::RoundTrip];

/// Measures and reports.
pub(crate) async fn run(args: CompareArgs) -> Fallible<()> {
    #[cfg(not(feature = "peers"))]
    if let Some(cargo) = std::env::var_os("CARGO") {
        return rebuild::with_clients(&cargo);
    }
    if args.install_hint {
        return install_hint(&find_peers(&[]).await?);
    }
    let comparison = measure(&args).await?;
    args.place.write_json(&comparison)?;
    if let Some(path) = &args.svg {
        write_file(path, &chart::draw(&comparison))?;
    }
    write!(std::io::stdout().lock(), "{comparison}")?;
    comparison.any_failure()
}

/// Everybody who is asked for, whether installed or not, qbroker and the floor aside.
async fn find_peers(only: &[Name]) -> Fallible<Vec<Found>> {
    let mut found = Vec::new();
    for name in Name::value_variants() {
        if only.is_empty() || only.contains(name) {
            found.extend(find(*name).await?);
        }
    }
    Ok(found)
}

/// A broker that the system may have. `None` of what is not one.
async fn find(name: Name) -> Fallible<Option<Found>> {
    let found = match name {
        Name::Floor | Name::Qbroker => return Ok(None),
        Name::Beanstalkd => beanstalkd::find().await?,
        #[cfg(feature = "peers")]
        Name::RabbitmqQuorum => rabbitmq::find(rabbitmq::Kind::Quorum).await?,
        #[cfg(feature = "peers")]
        Name::RabbitmqClassic => rabbitmq::find(rabbitmq::Kind::Classic).await?,
        #[cfg(feature = "peers")]
        Name::RedisAlways => redis::find(redis::Fsync::Always).await?,
        #[cfg(feature = "peers")]
        Name::RedisEverysec => redis::find(redis::Fsync::EverySecond).await?,
        #[cfg(feature = "peers")]
        Name::NatsDefault => nats::find(nats::Sync::Default).await?,
        #[cfg(feature = "peers")]
        Name::NatsAlways => nats::find(nats::Sync::Always).await?,
        #[cfg(feature = "peers")]
        Name::Postgresql => postgresql::find().await?,
        #[cfg(not(feature = "peers"))]
        _ => Found::Missing(peer::Missing { name, reason: NO_CLIENTS.to_owned(), package: None }),
    };
    Ok(Some(found))
}

/// Prints the command that installs what is not there, and what no package would bring.
fn install_hint(found: &[Found]) -> Fallible<()> {
    let missing = || {
        found.iter().filter_map(|found| match found {
            Found::Ready(_) => None,
            Found::Missing(missing) => Some(missing),
        })
    };
    let mut packages: Vec<_> = missing().filter_map(|missing| missing.package).collect();
    packages.dedup();
    let mut out = std::io::stdout().lock();
    if packages.is_empty() {
        writeln!(out, "No package is missing.")?;
    } else {
        writeln!(out, "sudo apt-get install --no-install-recommends {}", packages.join(" "))?;
        writeln!(
            out,
            "\nDebian starts what it installs. `compare` starts servers of its own, on other ports and \
             in\ntemporary folders, so stop those: sudo systemctl disable --now NAME"
        )?;
    }
    for missing in missing().filter(|missing| missing.package.is_none()) {
        writeln!(out, "{}: {}", key(missing.name), missing.reason)?;
    }
    Ok(())
}

/// A participant's name as it is given on the command line.
fn key(name: Name) -> String {
    let value = name.to_possible_value().expect("no participant is hidden");
    value.get_name().to_owned()
}

async fn measure(args: &CompareArgs) -> Fallible<Comparison> {
    let machine = Machine::describe(&args.place.parent())?;
    let folder = args.place.folder("compare")?;
    // PostgreSQL does not run as root, and its user must get through.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
    let mut missing = Vec::new();
    let mut field = Field::default();
    for found in args.participants().await? {
        match found {
            Found::Ready(contender) => field.enter(contender),
            Found::Missing(peer) => {
                note(&format!("skipped: {}: {}", key(peer.name), peer.reason));
                missing.push(peer);
            }
        }
    }
    process_tree::adopt_orphans()?;
    let mut watch = Watch::start(folder.path())?;
    for round in 0..args.rounds {
        watch.time_disk()?;
        field.round(round, args, folder.path()).await?;
    }
    if 0 < args.backlog {
        field.backlogs(args, folder.path()).await?;
    }
    Comparison::new(machine, watch.end()?, args.load.settings(args.rounds), field.entrants, missing)
}

impl CompareArgs {
    async fn participants(&self) -> Fallible<Vec<Found>> {
        let mut found = vec![own::qbroker(self.place.program()?).await?];
        if self.only.is_empty() || self.only.contains(&Name::Floor) {
            found.insert(0, own::floor(self.load.payload_bytes()));
        }
        found.extend(find_peers(&self.only).await?);
        Ok(found)
    }
}

/// All who take part and what they have given so far.
#[derive(Default)]
struct Field {
    contenders: Vec<Box<dyn Contender>>,
    /// In the same order.
    entrants: Vec<Entrant>,
}

impl Field {
    fn enter(&mut self, contender: Box<dyn Contender>) {
        let samples = ROWS.map(|row| (row, Samples::new())).into();
        self.entrants.push(Entrant::new(contender.about().clone(), samples));
        self.contenders.push(contender);
    }

    /// Everybody's turn, one after the other: who waits has no server. Somebody else is first each
    /// time, so that none is always measured in the same one's wake.
    async fn round(&mut self, round: u32, args: &CompareArgs, folder: &Path) -> Fallible<()> {
        for place in 0..self.contenders.len() {
            let index = (place + round as usize) % self.contenders.len();
            let (contender, entrant) = (&mut self.contenders[index], &mut self.entrants[index]);
            if entrant.failure.is_some() {
                continue;
            }
            note(&format!("round {} of {}: {}", round + 1, args.rounds, entrant.about.title));
            let own = tempfile::tempdir_in(folder)?;
            let runs = contender.turn(&ROWS, &args.load.load(), own.path()).await;
            match runs {
                Ok(runs) => entrant.add(&runs)?,
                Err(error) => entrant.fail(error)?,
            }
            entrant.in_flight = ROWS.map(|row| (row, contender.in_flight(row))).into();
        }
        Ok(())
    }

    async fn backlogs(&mut self, args: &CompareArgs, folder: &Path) -> Fallible<()> {
        for (contender, entrant) in self.contenders.iter().zip(&mut self.entrants) {
            if entrant.failure.is_some() {
                continue;
            }
            note(&format!("backlog of {}: {}", args.backlog, entrant.about.title));
            let own = tempfile::tempdir_in(folder)?;
            match contender.backlog(args.backlog, &args.load.load(), own.path()).await {
                Ok(backlog) => entrant.backlog = backlog,
                Err(error) => entrant.fail(error)?,
            }
        }
        Ok(())
    }
}

/// Says how far it is.
#[allow(clippy::print_stderr, reason = "progress is for whoever waits")]
fn note(text: &str) {
    eprintln!("{text}");
}
