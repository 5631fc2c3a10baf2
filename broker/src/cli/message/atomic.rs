//! Publishes the lines of a file as one batch, all or nothing.

use std::path::Path;

use indicatif::HumanBytes;
use qbroker::exit::Exit;
use qbroker_client::{BatchReceipt, Error, OutgoingMessage};
use serde_json::json;

use super::bulk;
use super::publish::PublishArgs;
use crate::cli::Outcome;
use crate::cli::failure::Failure;
use crate::cli::globals::Globals;
use crate::cli::output::{Item, column};

/// Bytes of a file that is read at all: a batch has 15 MiB at most, of which each byte may be written as six.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// Publishes the file at `path` and returns once all of it is on disk.
pub(super) async fn publish(globals: &Globals, args: &PublishArgs, path: &Path) -> Outcome {
    let (lines, batch) = read(args, path).await?;
    let client = globals.connect().await?;
    let publisher = client.publisher(args.queue()).open().await?;
    let receipt = publisher.publish_batch(batch).await.map_err(|error| refused(error, &lines))?;
    tell(globals, &receipt)?;
    Ok(Exit::Ok)
}

/// The messages of a file, and the line of each. One that is none refuses them all.
async fn read(
    args: &PublishArgs,
    path: &Path,
) -> Result<(Vec<u64>, Vec<OutgoingMessage>), Failure> {
    let (mut source, _) = bulk::open(path).await?;
    let (mut line, mut bytes) = (Vec::new(), 0);
    let (mut lines, mut batch) = (Vec::new(), Vec::new());
    let mut number = 0;
    while bulk::read_line(source.as_mut(), &mut line).await? {
        number += 1;
        bytes += line.len() as u64;
        if FILE_BYTES_MAX <= bytes {
            let most = HumanBytes(FILE_BYTES_MAX);
            let message =
                format!("{most} or more: no broker takes that at once; nothing is stored");
            return Err(Failure::new(Exit::Data, message));
        }
        let message = bulk::message_of(args, &line).map_err(|reason| {
            Failure::new(Exit::Data, format!("line {number}: {reason}; nothing is stored"))
        })?;
        lines.extend(message.as_ref().map(|_| number));
        batch.extend(message);
    }
    if batch.is_empty() {
        return Err(Failure::new(Exit::Data, "there is no message in it; nothing is stored"));
    }
    Ok((lines, batch))
}

/// What went wrong, with the line that caused it where it is of one.
fn refused(error: Error, lines: &[u64]) -> Failure {
    let index = match &error {
        Error::Refused(refusal) => refusal.metadata.get("index"),
        _ => None,
    };
    let line = index.and_then(|index| lines.get(index.parse::<usize>().ok()?));
    let failure = Failure::from(error);
    match line {
        Some(line) => failure.of(&format!("line {line}")),
        None => failure,
    }
}

/// Where the batch is: as data, or nothing where nobody asked.
fn tell(globals: &Globals, receipt: &BatchReceipt) -> std::io::Result<()> {
    let stored = receipt.len() - receipt.duplicates().len();
    let first = (0..receipt.len()).find_map(|position| receipt.sequence(position));
    let mut item = Item::new();
    item.insert("stored".to_owned(), json!(stored));
    item.insert("duplicates".to_owned(), json!(receipt.duplicates().len()));
    item.insert("first_sequence".to_owned(), json!(first));
    let columns = [
        column("STORED", "stored"),
        column("DUPLICATES", "duplicates"),
        column("FIRST_SEQUENCE", "first_sequence"),
    ];
    globals.output().item(&columns, item)
}
