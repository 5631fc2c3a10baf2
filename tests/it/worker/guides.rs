//! The commands in the worker's guides do what they say.

use std::path::Path;
use std::process::Command;

use qbroker_client::{Client, Failure, OutgoingMessage, QueueSpec, ScheduleSpec};
use qbroker_tests::folder::Folder;
use qbroker_tests::server::Server;
use qbroker_tests::{patiently, program};

const GUIDES: [&str; 4] =
    ["worker-guide.md", "coming-from-dramatiq.md", "coming-from-celery.md", "coming-from-rq.md"];

/// Every command that stands in a block, or between backticks.
fn commands() -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut commands = Vec::new();
    for guide in GUIDES {
        let text = std::fs::read_to_string(docs.join(guide)).unwrap();
        for line in text.lines() {
            let pieces: Vec<&str> = match line.starts_with("qbroker ") {
                true => vec![line],
                false => line.split('`').skip(1).step_by(2).collect(),
            };
            let is_command = |piece: &&str| piece.starts_with("qbroker ");
            commands.extend(pieces.into_iter().filter(is_command).map(str::to_owned));
        }
    }
    commands.sort();
    commands.dedup();
    commands
}

/// A dead letter of this queue; its id.
async fn dead_letter(client: &Client, queue: &str) -> String {
    let message = OutgoingMessage::new("{}").message_type("charge");
    client.publish(queue, vec![message]).await.unwrap();
    let consumer = client.consumer([queue]).open().await.unwrap();
    let delivery = patiently("the message", consumer.next()).await.unwrap().unwrap();
    let id = format!("q.{}", delivery.message.sequence);
    delivery.dead_letter(Failure::new("PaymentError", "declined")).await.unwrap();
    consumer.close().await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_guides_can_be_run() {
    let folder = Folder::new();
    let server = Server::start(&folder, &[]).await;
    let client = Client::connect(server.url()).await.unwrap();
    for queue in ["payments", "NAME"] {
        client.create_queue(QueueSpec::new(queue)).await.unwrap();
    }
    let commands = commands();
    assert!(10 < commands.len(), "{commands:?}");
    for (number, command) in commands.into_iter().enumerate() {
        // It does not end.
        if command == "qbroker serve" {
            continue;
        }
        // What it works on: a queue with a dead letter, and a schedule where it does not make one.
        let queue = if command.contains(" payments") { "payments" } else { "NAME" };
        let mut words = command.clone();
        if command.contains("queue create") {
            words = words.replace("NAME", &format!("fresh-{number}"));
        } else {
            // One of the commands pauses it.
            client.resume_queue(queue).await.unwrap();
            let id = dead_letter(&client, queue).await;
            words = words.replace("QUEUE", "NAME").replace(" ID", &format!(" {id}"));
        }
        let nightly =
            ScheduleSpec::new("nightly", "@daily", OutgoingMessage::new("{}").queue("reports"));
        client.put_schedule(nightly).await.unwrap();
        if command.contains("schedule create") {
            client.delete_schedule("nightly").await.unwrap();
        }
        let ran = tokio::task::block_in_place(|| {
            let mut shell = Command::new("sh");
            let mut words = words.replacen("qbroker", "\"$QBROKER\"", 1);
            if words.contains(" delete ") {
                // Nobody is there to be asked.
                words.push_str(" --yes");
            }
            shell.args(["-c", &words]).env_clear().env("QBROKER", program::path());
            shell.env("QBROKER_URL", server.url()).output().unwrap()
        });
        let told = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{words}: {told}");
    }
    server.stop().await;
}
