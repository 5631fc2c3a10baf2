//! Tokens and certificates at the shell: each way to give them, and what one is told without.

use std::path::Path;

use qbroker_tests::folder::Folder;
use qbroker_tests::server::Server;
use qbroker_tests::shell::Shell;
use rustix::process::Signal;

use super::{Stage, check_refused};
use crate::pki::Pki;

/// A broker that asks for one of the tokens in its file, and a token that is there.
async fn with_token() -> (Stage, String) {
    let folder = Folder::new();
    let file = folder.beside("tokens.toml");
    let token = create_token(&file).await;
    let server = Server::start(&folder, &["--auth-tokens", file.to_str().unwrap()]).await;
    (Stage { shell: Shell::at(&server.url()), server, folder }, token)
}

async fn create_token(file: &Path) -> String {
    let create = ["token", "create", "--name", "ci", "--file", file.to_str().unwrap()];
    Shell::default().out(&create).await.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_every_command_is_77_and_told_how_to_give_one() {
    let (stage, token) = with_token().await;
    let (bare, wrong) = (&stage.shell, stage.shell.clone().with_variable("QBROKER_TOKEN", "qbt_x"));
    for command in [
        &["queue", "list"][..],
        &["queue", "create", "work"],
        &["queue", "delete", "work", "--yes"],
        &["message", "publish", "work", "x"],
        &["message", "publish", "work", "--jsonl", "-"],
        &["message", "pull", "work"],
        &["message", "peek", "work"],
        &["message", "consume", "work"],
        &["message", "consume", "work", "--exec", "true"],
    ] {
        for shell in [bare, &wrong] {
            let refused = shell.run_with(command, b"1\n").await;
            assert_eq!(refused.code, 77, "{command:?}: {}", refused.err);
            for word in ["UNAUTHENTICATED", "--token-file", "QBROKER_TOKEN"] {
                assert!(refused.err.contains(word), "{command:?}, {word}: {}", refused.err);
            }
            assert_eq!(refused.out, "", "{command:?}");
        }
    }
    // Probes need none.
    assert_eq!(bare.out(&["health"]).await, "ready\n");
    let inside = stage.shell.clone().with_variable("QBROKER_TOKEN", &token);
    assert_eq!(inside.out(&["queue", "list", "-o", "jsonl"]).await, "", "nothing was done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_given_by_file_or_by_variable_and_the_file_goes_first() {
    let (stage, token) = with_token().await;
    let (good, bad) = (stage.folder.beside("token"), stage.folder.beside("empty"));
    std::fs::write(&good, format!("{token}\n")).unwrap();
    std::fs::write(&bad, "\n").unwrap();
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    let shell = || stage.shell.clone();
    for shell in [
        shell().with(&["--token-file", good]),
        shell().with_variable("QBROKER_TOKEN_FILE", good),
        shell().with_variable("QBROKER_TOKEN", &token),
        shell().with_variable("QBROKER_TOKEN", "qbt_x").with(&["--token-file", good]),
        shell().with_variable("QBROKER_TOKEN_FILE", "/no/such").with(&["--token-file", good]),
        Shell::default()
            .with_variable("QBROKER_URL", &stage.server.url())
            .with_variable("QBROKER_TOKEN", &token),
    ] {
        shell.out(&["message", "publish", "work", "x"]).await;
        let pulled = shell.out(&["message", "pull", "work"]).await;
        assert_eq!(pulled.lines().count(), 1, "{shell:?}");
    }
    let empty = shell().with(&["--token-file", bad]).run(&["queue", "list"]).await;
    check_refused(&empty, 77, &["UNAUTHENTICATED"]);
    let missing = shell().with(&["--token-file", "/no/such"]).run(&["queue", "list"]).await;
    check_refused(&missing, 78, &["/no/such"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_made_or_hashed_later_is_taken_without_a_restart() {
    let (stage, _) = with_token().await;
    let file = stage.folder.beside("tokens.toml");
    let second = create_token(&file).await;
    // Without a file, the entry is for whoever keeps the file.
    let made = Shell::default().run(&["token", "create", "--name", "third"]).await;
    let third = made.out.trim().to_owned();
    assert!(made.code == 0 && !made.err.contains(&third), "{}", made.err);
    let hash = ["token", "hash", "--name", "third"];
    let entry = Shell::default().run_with(&hash, third.as_bytes()).await;
    assert!(made.err.contains(&entry.out), "{} is not in {}", entry.out, made.err);
    let tokens = std::fs::read_to_string(&file).unwrap() + &entry.out;
    std::fs::write(&file, tokens).unwrap();

    let Stage { shell, server, folder } = stage;
    let server = server.signal(Signal::HUP);
    assert!(server.wait_for("read the tokens again").await.is_some());
    for token in [second, third] {
        shell.clone().with_variable("QBROKER_TOKEN", &token).out(&["queue", "list"]).await;
    }
    drop((server, folder));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_one_names_whom_one_trusts() {
    let folder = Folder::new();
    let write = |name: &str, text: &str| {
        let path = folder.beside(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (own, stranger) = (Pki::new(), Pki::new());
    let (cert, key) = (write("cert.pem", &own.cert), write("key.pem", &own.key));
    let (ca, other) = (write("ca.pem", &own.ca), write("other.pem", &stranger.ca));
    let server = Server::start(&folder, &["--tls-cert", &cert, "--tls-key", &key]).await;
    let url = server.url().replace("http://", "https://");
    let trusting = Shell::at(&url).with(&["--ca-file", &ca]);
    trusting.out(&["message", "publish", "work", "x"]).await;
    assert_eq!(trusting.out(&["health"]).await, "ready\n");
    let by_variable = Shell::at(&url).with_variable("QBROKER_CA_FILE", &ca);
    let consumed = by_variable.out(&["message", "consume", "work", "--count", "1"]).await;
    assert!(consumed.contains("\"payload\":\"x\""), "{consumed}");

    for (shell, code) in [
        (Shell::at(&url).with(&["--ca-file", &other]), 69),
        (Shell::at(&url), 69),
        (Shell::at(&url).with(&["--ca-file", "/no/such"]), 78),
    ] {
        check_refused(&shell.run(&["queue", "list"]).await, code, &[]);
        check_refused(&shell.run(&["health"]).await, 1, &[]);
    }
    // Plain text to a port that speaks TLS.
    let plain = Shell::at(&server.url()).with(&["--timeout", "500ms"]);
    let refused = plain.run(&["queue", "list"]).await;
    assert!([69, 75].contains(&refused.code), "{}: {}", refused.code, refused.err);
    // The port for probes needs no certificate.
    let probe = ["health", "--http", &server.http().to_string()];
    assert_eq!(Shell::default().out(&probe).await, "ready\n");
}
