//! Who may in: open on loopback, by token elsewhere, by TLS where it is set; and who may look on.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use qbroker_client::{Client, Error, OutgoingMessage, Reason};
use qbroker_proto::v1::GetServerInfoRequest;
use qbroker_tests::folder::Folder;
use qbroker_tests::program;
use qbroker_tests::server::Server;
use qbroker_tests::wire::{Refusal, Wire};
use rustix::process::Signal;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::{Broker, answer};
use crate::pki::Pki;

/// Asks for the server's info with this authorization.
async fn ask(wire: &Wire, authorization: Option<&str>) -> Result<(), Refusal> {
    let mut request = Request::new(GetServerInfoRequest {});
    if let Some(authorization) = authorization {
        request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    }
    answer(wire.admin().get_server_info(request).await).map(drop)
}

fn create_token(file: &Path, name: &str) -> String {
    let file = file.to_str().unwrap();
    let ran = program::run(&["token", "create", "--name", name, "--file", file]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    ran.out.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_file_nobody_gets_in_without_one_of_its_tokens() {
    let folder = Folder::new();
    let file = folder.beside("tokens.toml");
    let token = create_token(&file, "ci");
    assert!(!std::fs::read_to_string(&file).unwrap().contains(&token), "it holds hashes only");
    let server = Server::start(&folder, &["--auth-tokens", file.to_str().unwrap()]).await;
    assert!(!server.log().contains(&token));
    let wire = Wire::connect(&server.url()).await;
    let wrong = [None, Some("Bearer qbt_wrong"), Some("Basic eDp5"), Some(""), Some(&token)];
    for authorization in wrong {
        let refused = ask(&wire, authorization).await.expect_err("it is no token");
        assert_eq!(refused.is(), (Code::Unauthenticated, "UNAUTHENTICATED"), "{authorization:?}");
        assert!(!refused.message.contains(&token));
    }
    ask(&wire, Some(&format!("Bearer {token}"))).await.unwrap();
    // Probes carry no token.
    assert_eq!(health(&wire, "").await, Some(ServingStatus::Serving));
    // The client and the command line take it along.
    let client = Client::builder(server.url()).token(token.as_str()).connect().await.unwrap();
    client.publish("q", vec![OutgoingMessage::new("m")]).await.unwrap();
    let url = ["--url", &server.url()];
    let refused = program::run(&[&["queue", "list"][..], &url].concat());
    assert_eq!(refused.code, 77, "{}", refused.err);
    let own = folder.beside("token");
    std::fs::write(&own, &token).unwrap();
    let with = ["--token-file", own.to_str().unwrap()];
    assert_eq!(program::run(&[&["queue", "list"][..], &url, &with].concat()).code, 0);

    // A token that is taken out of the file is out after a SIGHUP, without a restart.
    std::fs::remove_file(&file).unwrap();
    let other = create_token(&file, "other");
    let server = server.signal(Signal::HUP);
    assert!(server.wait_for("read the tokens again").await.is_some());
    ask(&wire, Some(&format!("Bearer {token}"))).await.unwrap_err();
    ask(&wire, Some(&format!("Bearer {other}"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_the_first_start_makes_a_token_and_tells_how_to_use_it() {
    let folder = Folder::new();
    let flags = ["--grpc-listen", "0.0.0.0:0"];
    let server = Server::start(&folder, &flags).await;
    let file = folder.data().join("bootstrap-token");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    let made = server
        .wait_for("made the first token: copy it from the file and use it like this")
        .await
        .unwrap();
    let command = made["command"].as_str().unwrap();
    assert!(command.contains(&format!("--token-file {}", file.display())), "{command}");
    assert!(!server.log().contains(&token), "the log is read by many");

    let url = format!("http://127.0.0.1:{}", server.grpc().port());
    let wire = Wire::connect(&url).await;
    assert_eq!(ask(&wire, None).await.unwrap_err().reason, "UNAUTHENTICATED");
    ask(&wire, Some(&format!("Bearer {token}"))).await.unwrap();
    // The command that is told works as it stands, but for the host.
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    let at = words.iter().position(|word| *word == "--url").unwrap();
    let mut words = words;
    words.splice(at + 1..at + 3, [url.as_str()]);
    let ran = program::run(&words);
    assert_eq!(ran.code, 0, "{words:?}: {}", ran.err);
    server.stop().await;

    let server = Server::start(&folder, &flags).await;
    let wire = Wire::connect(&format!("http://127.0.0.1:{}", server.grpc().port())).await;
    ask(&wire, Some(&format!("Bearer {token}"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_nobody_for_a_token_is_warned_of_it() {
    let folder = Folder::new();
    let flags = ["--grpc-listen", "0.0.0.0:0", "--insecure-no-auth"];
    let server = Server::start(&folder, &flags).await;
    let warned = |line: &str| line.contains("\"WARN\"") && line.contains("insecure-no-auth");
    assert!(server.log().lines().any(warned), "{}", server.log());
    let wire = Wire::connect(&format!("http://127.0.0.1:{}", server.grpc().port())).await;
    ask(&wire, None).await.unwrap();
    assert!(!folder.data().join("bootstrap-token").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_only_those_get_in_who_speak_it_and_they_know_whom_they_speak_to() {
    let folder = Folder::new();
    let (cert, key) = (folder.beside("cert.pem"), folder.beside("key.pem"));
    let first = Pki::new();
    std::fs::write(&cert, &first.cert).unwrap();
    std::fs::write(&key, &first.key).unwrap();
    let flags = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = Server::start(&folder, &flags).await;
    let url = server.url().replace("http://", "https://");
    let connect = |ca: &str| Client::builder(url.as_str()).ca_certificate(ca).connect();
    let client = connect(&first.ca).await.unwrap();
    client.publish("q", vec![OutgoingMessage::new("m")]).await.unwrap();
    let stranger = Pki::new();
    let refused = connect(&stranger.ca).await.unwrap_err();
    assert!(matches!(refused, Error::Disconnected(_)), "{refused}");
    let plain = Client::builder(server.url()).request_timeout(Duration::from_millis(300));
    let refused = match plain.connect().await {
        Err(error) => error,
        Ok(client) => client.get_queue("q").await.unwrap_err(),
    };
    assert!(matches!(refused, Error::Disconnected(_) | Error::TimedOut(_)), "{refused}");

    // A pair that does not fit is refused and the old one kept; a new one is taken, without a restart.
    std::fs::write(&cert, &stranger.cert).unwrap();
    let server = server.signal(Signal::HUP);
    let kept = "cannot read the certificate again: the old one stays";
    assert!(server.wait_for(kept).await.is_some());
    connect(&first.ca).await.unwrap();
    std::fs::write(&key, &stranger.key).unwrap();
    let server = server.signal(Signal::HUP);
    assert!(server.wait_for("read the certificate again").await.is_some());
    connect(&stranger.ca).await.unwrap();
    assert!(connect(&first.ca).await.is_err(), "the old certificate is gone");
    assert_eq!(client.get_queue("q").await.unwrap().stats.ready, 1, "who was in stays in");
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_tokens_and_certificates_are_told_at_the_start() {
    let folder = Folder::new();
    let file = folder.beside("file");
    std::fs::write(&file, "neither token nor certificate").unwrap();
    let (file, missing) = (file.to_str().unwrap(), folder.beside("missing"));
    let missing = missing.to_str().unwrap();
    for flags in [
        &["--auth-tokens", missing][..],
        &["--auth-tokens", file],
        &["--tls-cert", missing, "--tls-key", missing],
        &["--tls-cert", file, "--tls-key", file],
    ] {
        match Server::try_start(&folder, flags).await {
            Ok(_) => panic!("{flags:?} is accepted"),
            Err(ended) => {
                assert_eq!(ended.code, Some(78), "{flags:?}: {}", ended.log);
                assert!(ended.log.contains(flags[1]), "{flags:?}: {}", ended.log);
            }
        }
    }
}

async fn health(wire: &Wire, service: &str) -> Option<ServingStatus> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(wire.channel()).check(request).await;
    answer.ok().map(|answer| answer.into_inner().status())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    let broker = Broker::start(&[]).await;
    for service in ["", "live", "ready"] {
        assert_eq!(
            health(&broker.wire, service).await,
            Some(ServingStatus::Serving),
            "{service:?}"
        );
    }
    assert_eq!(health(&broker.wire, "nonsense").await, None);
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let mut client = ServerReflectionClient::new(broker.wire.channel());
    let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = answer else { panic!("{answer:?}") };
    let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    for service in ["PublisherService", "ConsumerService", "AdminService"] {
        let name = format!("qbroker.v1.{service}");
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    // The probe of the command line, which containers use.
    let health = program::run(&["health", "--url", &broker.server.url()]);
    assert_eq!(health.code, 0, "{}", health.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_learns_why_it_is_not_let_in() {
    let folder = Folder::new();
    let file = folder.beside("tokens.toml");
    create_token(&file, "ci");
    let server = Server::start(&folder, &["--auth-tokens", file.to_str().unwrap()]).await;
    let client = Client::builder(server.url()).token("qbt_wrong").connect().await.unwrap();
    let refused = client.publish("q", vec![OutgoingMessage::new("m")]).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::Unauthenticated), "{refused}");
    assert!(!refused.is_retryable());
}
