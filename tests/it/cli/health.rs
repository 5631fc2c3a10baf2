//! Probes: ready or not, and how that ends.

use qbroker_tests::server::Server;
use rustix::process::Signal;

use super::{Gate, Stage, check_refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_broker_is_0_and_one_that_stops_or_is_gone_is_1() {
    let Stage { shell, server, folder } = Stage::with(&["--shutdown-grace", "1h"]).await;
    let http = server.http().to_string();
    let probes = [&["health"][..], &["health", "--http", &http]];
    for probe in probes {
        assert_eq!(shell.out(probe).await, "ready\n");
        assert_eq!(shell.out(&[&["-q"], probe].concat()).await, "");
    }
    let stage = Stage { shell, server, folder };
    let mut gate = Gate::new(&stage.folder);
    stage.publish("work", &["job"]).await;
    let job = format!("echo begun; {}", gate.wait());
    let consume = ["message", "consume", "work", "--exec", &job, "--count", "1"];
    let mut worker = stage.shell.start(&consume);
    assert_eq!(worker.line().await.unwrap(), "begun");

    // It waits for the job.
    let Stage { shell, server, folder } = stage;
    let server: Server = server.signal(Signal::TERM);
    assert!(server.wait_for("stopping").await.is_some());
    for (probe, word) in probes.iter().zip(["NOT_SERVING", "stopping"]) {
        check_refused(&shell.run(probe).await, 1, &[word]);
    }
    gate.let_through(1);
    assert_eq!(server.end().await.code, Some(0));
    let ended = worker.end().await;
    assert!(ended.err.contains("1 done, 0 failed"), "{}", ended.err);
    for probe in probes {
        check_refused(&shell.run(probe).await, 1, &["nobody answers at"]);
    }
    drop(folder);
}
