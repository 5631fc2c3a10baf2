//! A broker that goes away under a worker, and one that does not answer.

use std::net::TcpListener;

use axum::http::Response;
use qbroker_tests::front::Front;
use qbroker_tests::server::Server;
use qbroker_tests::shell::Shell;
use rustix::process::Signal;
use tokio::net::TcpStream;

use super::{Gate, Stage, check_refused, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_a_restart_of_the_broker_and_is_done_once() {
    let Stage { server, folder, .. } = Stage::new().await;
    let front = Front::open().await;
    front.lead_to(server.grpc());
    let stage = Stage { shell: Shell::at(&front.url()), server, folder };
    let mut gate = Gate::new(&stage.folder);
    stage.publish("work", &["job"]).await;
    let job = format!("echo begun; {}", gate.wait());
    let mut worker = stage.shell.start(&["message", "consume", "work", "--exec", &job]);
    assert_eq!(worker.line().await.unwrap(), "begun");

    let Stage { shell, server, folder } = stage;
    server.kill().await;
    let server = Server::start(&folder, &[]).await;
    front.lead_to(server.grpc());
    gate.let_through(1);
    let stage = Stage { shell, server, folder };
    until("the ack arrives", async || stage.show("work").await["acked_total"] == 1).await;
    worker.signal(Signal::TERM);
    let ended = worker.end().await;
    assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{}", ended.err);
    assert!(ended.err.contains("1 done, 0 failed, 0 released, 0 lost"), "{}", ended.err);
    let shown = stage.show("work").await;
    assert_eq!((&shown["delivered_total"], &shown["ready"]), (&1.into(), &0.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_settled_everything_ends_well_though_the_broker_is_gone() {
    let stage = Stage::new().await;
    stage.publish("work", &["job"]).await;
    stage.publish("other", &["job"]).await;
    let mut printing = stage.shell.start(&["message", "consume", "other"]);
    let working = ["message", "consume", "work", "--exec", "cat; echo"];
    let mut working = stage.shell.start(&working);
    assert_eq!(working.line().await.unwrap(), "job");
    assert_eq!(printing.json_line().await["payload"], "job");
    for queue in ["work", "other"] {
        until("the ack arrives", async || stage.show(queue).await["acked_total"] == 1).await;
    }
    stage.server.kill().await;
    for worker in [&working, &printing] {
        worker.signal(Signal::TERM);
    }
    let (working, printing) = tokio::join!(working.end(), printing.end());
    assert_eq!(working.code, 0, "{}", working.err);
    assert!(working.err.contains("1 done, 0 failed, 0 released, 0 lost"), "{}", working.err);
    assert_eq!((printing.code, printing.err.as_str()), (0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_in_time_is_75_and_a_stranger_that_answers_is_69() {
    // Connections are made and nobody takes them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let shell = Shell::at(&url).with(&["--timeout", "100ms"]);
    for command in [&["queue", "list"][..], &["message", "publish", "q", "x"]] {
        check_refused(&shell.run(command).await, 75, &["100ms"]);
    }
    let asked = shell.run(&["health"]).await;
    check_refused(&asked, 1, &["100ms"]);
    // The port for probes and metrics is not the one for clients.
    let stage = Stage::new().await;
    let url = format!("http://{}", stage.server.http());
    let shell = Shell::at(&url).with(&["--timeout", "300ms"]);
    for command in [&["queue", "list"][..], &["message", "publish", "q", "x"]] {
        let refused = shell.run(command).await;
        check_refused(&refused, 69, &[&url, "gRPC port is 7650", "7651 is for HTTP"]);
        assert!(!refused.err.contains("transport error"), "{}", refused.err);
    }
    check_refused(&shell.run(&["health"]).await, 1, &[&url, "gRPC port is 7650"]);
    let tls = format!("https://{}", stage.server.grpc());
    let refused = Shell::at(&tls).run(&["queue", "list"]).await;
    check_refused(&refused, 69, &[&tls, "without TLS its URL begins with http://"]);
}

/// A web server, say, or a proxy that knows no broker.
#[tokio::test(flavor = "multi_thread")]
async fn what_answers_and_is_no_broker_is_called_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(not_found(stream));
        }
    });
    let shell = Shell::at(&url);
    for command in [&["queue", "list"][..], &["message", "consume", "q"]] {
        let refused = shell.run(command).await;
        check_refused(&refused, 69, &[&format!("what answers at {url} is no qbroker"), "404"]);
        assert!(!refused.err.contains("the broker refused"), "{}", refused.err);
    }
}

/// Answers each request of a connection with HTTP's own 404.
async fn not_found(stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let answer = Response::builder().status(404).body(()).unwrap();
        // Whoever asked may be gone.
        respond.send_response(answer, true).ok();
    }
}
