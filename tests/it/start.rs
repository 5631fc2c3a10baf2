//! What is in the way of a start is told, each thing in its own words and exit code, and nothing
//! confirmed is lost by it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qbroker_client::{Client, MessageQuery, Outcome, OutgoingMessage};
use qbroker_tests::folder::Folder;
use qbroker_tests::program;
use qbroker_tests::server::{Ended, Server};
use rustix::process::Signal;

/// A start that must not succeed.
async fn refused(folder: &Folder, flags: &[&str]) -> Ended {
    match Server::try_start(folder, flags).await {
        Ok(server) => panic!("it serves:\n{}", server.log()),
        Err(ended) => ended,
    }
}

pub(crate) async fn client(server: &Server) -> Client {
    Client::connect(server.url()).await.unwrap()
}

/// Publishes each payload with a call, and so a frame, of its own.
pub(crate) async fn publish(client: &Client, payloads: &[&str]) {
    for payload in payloads {
        let message = OutgoingMessage::new((*payload).to_owned());
        client.publish("work", vec![message]).await.unwrap();
    }
}

/// The payloads of everything in the queue, in delivery order.
async fn payloads(client: &Client) -> Vec<String> {
    let listed = client.list_messages("work", MessageQuery::default()).await.unwrap();
    let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
    listed.items.iter().map(|listed| text(&listed.message.payload)).collect()
}

/// A folder with some confirmed messages, its broker killed.
async fn killed_with(messages: &[&str]) -> Folder {
    let folder = Folder::new();
    let server = Server::start(&folder, &[]).await;
    publish(&client(&server).await, messages).await;
    server.kill().await;
    folder
}

async fn check_payloads(folder: &Folder, expected: &[&str]) {
    let server = Server::start(folder, &[]).await;
    assert_eq!(payloads(&client(&server).await).await, expected);
    server.stop().await;
}

/// Every file below a folder and its bytes, but for the lock, which every command takes, and the
/// files that are prepared and hold nothing yet.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut contents = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("free") {
        } else if path.is_dir() {
            contents.extend(self::contents(&path));
        } else if !path.ends_with("LOCK") {
            contents.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    contents
}

/// Where `needle` first is in the log, as file and offset.
pub(crate) fn find_in_log(folder: &Folder, needle: &str) -> (PathBuf, usize) {
    let place = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
        at.map(|at| (path, at))
    };
    let found = folder.files("log").into_iter().find_map(place);
    found.unwrap_or_else(|| panic!("{needle:?} is nowhere in the log"))
}

pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x20;
    std::fs::write(path, bytes).unwrap();
}

/// Damages the header of the frame that holds this payload; the file's name.
fn damage_frame_of(folder: &Folder, payload: &str) -> String {
    let (path, at) = find_in_log(folder, payload);
    let bytes = std::fs::read(&path).unwrap();
    let frame = bytes[..at].windows(4).rposition(|window| window == b"QFR1").unwrap();
    flip(&path, frame + 20);
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

pub(crate) fn data(folder: &Folder, arguments: &[&str]) -> program::Ran {
    let folder = ["--data-dir", folder.data_text()];
    program::run(&[&["data"], arguments, &folder].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_broker_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let folder = Folder::new();
    let server = Server::start(&folder, &[]).await;
    let client = client(&server).await;
    publish(&client, &["before"]).await;
    let ended = refused(&folder, &[]).await;
    assert_eq!(ended.code, Some(69));
    let errors = ended.errors();
    assert!(errors.contains("the data folder is in use by process "), "{errors}");
    assert!(errors.contains("stop the other broker, or choose another folder"), "{errors}");
    for command in [&["verify"][..], &["repair", "--yes"]] {
        let ran = data(&folder, command);
        assert_eq!(ran.code, 69, "{command:?}: {}", ran.err);
        assert!(ran.err.contains("is in use by process "), "{command:?}: {}", ran.err);
    }
    publish(&client, &["after"]).await;
    assert_eq!(payloads(&client).await, ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_told_before_the_folder_is_touched() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    for flag in ["--grpc-listen", "--http-listen"] {
        let folder = Folder::new();
        let ended = refused(&folder, &[flag, &address]).await;
        assert_eq!(ended.code, Some(69), "{}", ended.log);
        let errors = ended.errors();
        assert!(errors.contains(&format!("cannot listen on {address}")), "{errors}");
        assert!(errors.contains("choose another"), "{errors}");
        assert!(!folder.data().exists(), "a folder was made for nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_a_newer_format_is_refused_and_left_as_it_is() {
    let folder = killed_with(&["one"]).await;
    let format = folder.data().join("FORMAT");
    let good = std::fs::read(&format).unwrap();
    let mut newer = good.clone();
    newer[8] = 9;
    std::fs::write(&format, &newer).unwrap();
    let before = contents(folder.data());
    let ended = refused(&folder, &[]).await;
    assert_eq!(ended.code, Some(78));
    let expected =
        "the data folder has format 9, this version reads up to 2: use the newer version";
    assert!(ended.errors().contains(expected), "{}", ended.log);
    let verified = data(&folder, &["verify"]);
    assert_eq!(verified.code, 78, "{}", verified.err);
    assert!(contents(folder.data()) == before, "the folder was changed");
    std::fs::write(&format, good).unwrap();
    check_payloads(&folder, &["one"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_something_else_is_refused_and_left_as_it_is() {
    let folder = Folder::new();
    std::fs::create_dir(folder.data()).unwrap();
    std::fs::write(folder.data().join("thesis.txt"), "the only copy").unwrap();
    let ended = refused(&folder, &[]).await;
    assert_eq!(ended.code, Some(78), "{}", ended.log);
    assert!(ended.errors().contains("it has no FORMAT file but holds \"thesis.txt\""));
    let files: Vec<_> = contents(folder.data()).into_keys().collect();
    assert_eq!(files, [folder.data().join("thesis.txt")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_reported_and_kept_aside() {
    let folder = killed_with(&["message-one", "message-two"]).await;
    // As if the power had gone while the second was being written, before anybody was told.
    let (path, at) = find_in_log(&folder, "message-two");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at..].fill(0);
    std::fs::write(&path, bytes).unwrap();
    std::fs::remove_file(folder.data().join("FLOOR")).unwrap();

    let server = Server::start(&folder, &[]).await;
    assert!(server.log().contains("a torn write of "), "{}", server.log());
    assert_eq!(payloads(&client(&server).await).await, ["message-one"]);
    assert_eq!(folder.files("quarantine").len(), 1);
    server.stop().await;
    assert_eq!(data(&folder, &["verify"]).code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_confirmed_data_is_refused_verified_repaired_and_served_again() {
    let folder = Folder::new();
    let server = Server::start(&folder, &[]).await;
    let first = client(&server).await;
    publish(&first, &["message-one", "message-two", "message-three", "message-four"]).await;
    let hour = Some(Duration::from_secs(3600));
    let pulled = first.pull(["work"], 3, Duration::ZERO, hour).await.unwrap();
    first.settle(vec![(pulled[0].lease_token.clone(), Outcome::Ack)]).await.unwrap();
    publish(&first, &["message-five"]).await;
    server.kill().await;
    let (path, at) = find_in_log(&folder, "message-two");
    flip(&path, at + 3);
    let file = path.file_name().unwrap().to_str().unwrap().to_owned();
    let before = contents(folder.data());

    let ended = refused(&folder, &[]).await;
    assert_eq!(ended.code, Some(74));
    let errors = ended.errors();
    let verify = format!("`qbroker data verify --data-dir {}`", folder.data_text());
    for told in [file.as_str(), "is damaged at offset", "LSN", &verify] {
        assert!(errors.contains(told), "{told:?} is not told: {errors}");
    }
    assert!(contents(folder.data()) == before, "a refused start changed the folder");

    let verified = data(&folder, &["verify", "-o", "json"]);
    assert_eq!(verified.code, 74, "{}", verified.err);
    assert!(verified.err.contains(&file), "{}", verified.err);
    let repair = format!("`qbroker data repair --dry-run --data-dir {}`", folder.data_text());
    assert!(verified.err.contains(&repair), "{}", verified.err);
    let report: serde_json::Value = serde_json::from_str(&verified.out).unwrap();
    assert_eq!(report["damages"][0]["file"], format!("log/{file}"), "{report}");

    let planned = data(&folder, &["repair", "--dry-run"]);
    assert_eq!(planned.code, 0, "{}", planned.err);
    assert!(planned.err.contains(&file), "{}", planned.err);
    assert!(contents(folder.data()) == before, "a dry run changed the folder");
    let unconfirmed = data(&folder, &["repair"]);
    assert_eq!(unconfirmed.code, 64, "nobody said --yes: {}", unconfirmed.err);
    assert!(contents(folder.data()) == before, "it was repaired though nobody agreed");

    let repaired = data(&folder, &["repair", "--yes"]);
    assert_eq!(repaired.code, 0, "{}", repaired.err);
    let original = &before[&folder.data().join("log").join(&file)];
    let aside = contents(&folder.data().join("quarantine"));
    assert!(aside.values().any(|bytes| bytes == original), "the original is not kept");
    assert_eq!(data(&folder, &["verify"]).code, 0);

    let server = Server::start(&folder, &[]).await;
    assert!(server.log().contains("without their bodies by a repair"), "{}", server.log());
    let second = client(&server).await;
    // What happened to the message is known, only its payload is not: its lease goes on.
    let held = pulled[1..].iter().map(|leased| (leased.lease_token.clone(), Outcome::Ack));
    assert_eq!(second.settle(held.collect()).await.unwrap(), [Ok(()), Ok(())]);
    assert_eq!(payloads(&second).await, ["message-four", "message-five"]);
    publish(&second, &["message-six"]).await;
    server.kill().await;
    check_payloads(&folder, &["message-four", "message-five", "message-six"]).await;
}

/// A folder with two checkpoints, and messages before, between and after them.
async fn with_two_checkpoints() -> Folder {
    let folder = Folder::new();
    for message in ["one", "two"] {
        let server = Server::start(&folder, &[]).await;
        publish(&client(&server).await, &[message]).await;
        server.stop().await;
    }
    let server = Server::start(&folder, &[]).await;
    publish(&client(&server).await, &["three"]).await;
    server.kill().await;
    assert_eq!(checkpoints(&folder).len(), 2);
    folder
}

fn checkpoints(folder: &Folder) -> Vec<PathBuf> {
    let mut paths = folder.files("ckpt");
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("ckpt-"));
    paths
}

/// Whether a warning of the log names this file.
fn warns_of(server: &Server, path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    server.log().lines().any(|line| line.contains("\"WARN\"") && line.contains(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_is_a_warning_and_so_are_two_while_the_log_is_whole() {
    for damaged in [&[0][..], &[1], &[0, 1]] {
        let folder = with_two_checkpoints().await;
        let paths = checkpoints(&folder);
        damaged.iter().for_each(|which| flip(&paths[*which], 300));
        let server = Server::start(&folder, &[]).await;
        for (which, path) in paths.iter().enumerate() {
            let expected = damaged.contains(&which);
            assert_eq!(warns_of(&server, path), expected, "{path:?}:\n{}", server.log());
        }
        assert_eq!(payloads(&client(&server).await).await, ["one", "two", "three"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_damaged_checkpoints_are_a_refusal_once_they_are_needed() {
    let folder = Folder::new();
    // Work that is done leaves with its segment, and only checkpoints know that it was.
    for message in ["one", "two", "three"] {
        let server = Server::start(&folder, &[]).await;
        let client = client(&server).await;
        publish(&client, &[message]).await;
        let pulled = client.pull(["work"], 1, Duration::ZERO, None).await.unwrap();
        client.settle(vec![(pulled[0].lease_token.clone(), Outcome::Ack)]).await.unwrap();
        server.stop().await;
    }
    let server = Server::start(&folder, &[]).await;
    publish(&client(&server).await, &["four"]).await;
    server.stop().await;
    let first = folder.data().join("log/seg-0000000000000001.qlog");
    assert!(!first.exists(), "its segment was dropped: {:?}", folder.files("log"));
    let paths = checkpoints(&folder);
    let good: Vec<_> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    paths.iter().for_each(|path| flip(path, 300));
    let before = contents(folder.data());
    let ended = refused(&folder, &[]).await;
    assert_eq!(ended.code, Some(74), "{}", ended.log);
    let errors = ended.errors();
    assert!(errors.contains("no checkpoint is usable"), "{errors}");
    assert!(errors.contains("`qbroker data verify --data-dir "), "{errors}");
    assert!(contents(folder.data()) == before, "a refused start changed the folder");
    assert_eq!(data(&folder, &["verify"]).code, 74);
    // Without them settled work may come again: that must be said to be accepted.
    let unaccepted = data(&folder, &["repair", "--yes"]);
    assert_eq!(unaccepted.code, 65, "{}", unaccepted.err);
    assert!(unaccepted.err.contains("--accept-redelivery"), "{}", unaccepted.err);
    // A backup of one is enough.
    std::fs::write(&paths[1], &good[1]).unwrap();
    check_payloads(&folder, &["four"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_folder_can_be_waited_with_so_that_nobody_starts_it_for_ever() {
    let folder = killed_with(&["message-one", "message-two"]).await;
    damage_frame_of(&folder, "message-one");
    let server = Server::spawn(&folder, &["--when-damaged", "wait"]);
    let waiting =
        "when-damaged=wait: serving nothing until stopped, so that nobody starts this again";
    assert!(server.wait_for(waiting).await.is_some());
    // Probes can tell it from a broker that is gone: alive, and not to be sent anything.
    let ports = server.wait_for("listening, and recovering first").await.unwrap();
    let health = program::run(&["health", "--http", ports["http"].as_str().unwrap()]);
    assert_eq!(health.code, 1, "{}", health.err);
    assert!(health.err.contains("the data is damaged"), "{}", health.err);
    let ended = server.signal(Signal::TERM).end().await;
    assert_eq!(ended.code, Some(74), "{}", ended.log);
}
