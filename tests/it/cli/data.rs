//! A folder that nobody uses: looked at, and left as it is where it is well. What is damaged or in
//! use is in `start.rs`.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use qbroker_tests::program::{self, Ran};
use qbroker_tests::server::Server;
use qbroker_tests::shell::Shell;
use serde_json::json;

use super::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_no_output_is_told_of_damage_by_the_exit_code() {
    let Stage { server, folder, .. } = Stage::new().await;
    server.stop().await;
    std::fs::remove_file(folder.data().join("FORMAT")).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program::command(&["data", "verify", "--data-dir", folder.data_text()]);
    let ended = Ran::of(command.stdout(writer).output().unwrap());
    assert_eq!(ended.code, 74, "{}", ended.err);
}

/// As by `sudo`, of a folder that its owner cannot reach from outside. Only root can be somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn what_root_repairs_stays_its_owners() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let Stage { server, folder, .. } = Stage::new().await;
    server.stop().await;
    let file = |name: &str| folder.data().join(name);
    std::fs::remove_file(file("FORMAT")).unwrap();
    std::fs::remove_file(file("LOCK")).unwrap();
    let nobody = "65534:65533";
    let chown = Command::new("chown").args(["-R", nobody]).arg(folder.data()).status();
    assert!(chown.unwrap().success());
    let repaired = program::run(&["data", "repair", "--yes", "--data-dir", folder.data_text()]);
    assert_eq!(repaired.code, 0, "{}", repaired.err);
    for name in ["FORMAT", "LOCK", "log", "ckpt"] {
        let made = std::fs::metadata(file(name)).unwrap();
        assert_eq!(format!("{}:{}", made.uid(), made.gid()), nobody, "{name}");
    }
    let verified = program::run(&["data", "verify", "--data-dir", folder.data_text()]);
    assert_eq!(verified.code, 0, "{}", verified.err);
}

/// Somebody has copied a part of it as another user. Root can read everything as root, but not as the
/// owner of the folder.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_is_not_taken_for_damage() {
    let Stage { server, folder, .. } = Stage::new().await;
    server.stop().await;
    let mut files = std::fs::read_dir(folder.data().join("ckpt")).unwrap();
    let is_checkpoint =
        |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with("ckpt-");
    let checkpoint =
        files.find_map(|file| Some(file.unwrap().path()).filter(|it| is_checkpoint(it)));
    let checkpoint = checkpoint.expect("a start writes one");
    if rustix::process::geteuid().is_root() {
        let owned = Command::new("chown").args(["-R", "65534:65533"]).arg(folder.data()).status();
        assert!(owned.unwrap().success());
        std::os::unix::fs::chown(&checkpoint, Some(0), Some(0)).unwrap();
        std::fs::set_permissions(&checkpoint, Permissions::from_mode(0o600)).unwrap();
    } else {
        std::fs::set_permissions(&checkpoint, Permissions::from_mode(0o000)).unwrap();
    }
    for arguments in [&["verify"][..], &["repair", "--yes"]] {
        let words = [&["data"][..], arguments, &["--data-dir", folder.data_text()]].concat();
        let refused = program::run(&words);
        assert_eq!(refused.code, 69, "{}", refused.err);
        let name = checkpoint.file_name().unwrap().to_str().unwrap();
        assert!(refused.err.contains(name) && refused.err.contains("ermission"), "{}", refused.err);
    }
    assert!(checkpoint.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_folder_is_verified_and_nothing_is_repaired() {
    let stage = Stage::new().await;
    stage.publish("work", &["one", "two"]).await;
    let Stage { server, folder, .. } = stage;
    server.stop().await;
    let shell = Shell::default().with_variable("QBROKER_DATA_DIR", folder.data_text());
    let verified = shell.json(&["data", "verify"]).await;
    assert_eq!(
        (&verified["folder"], &verified["damages"]),
        (&json!(folder.data_text()), &json!([]))
    );
    assert_eq!(verified["torn"], false);
    assert!(verified["records"].as_u64().is_some_and(|records| 3 <= records), "{verified}");
    let lsn = verified["last_lsn"].to_string();
    let table = shell.out(&["data", "verify", "-o", "table"]).await;
    assert!(table.lines().any(|line| line.ends_with(&lsn)), "{table}");
    // Nothing to do is nothing to agree to.
    let repaired = shell.json(&["data", "repair"]).await;
    assert_eq!((&repaired["actions"], &repaired["lost_records"]), (&json!([]), &json!(0)));
    assert_eq!(repaired["applied"], false);

    let server = Server::start(&folder, &[]).await;
    let Ran { code, out, err } = shell.run(&["data", "verify"]).await;
    assert_eq!((code, out.as_str()), (69, ""), "{err}");
    assert!(err.contains("in use by process"), "{err}");
    let stage = Stage { shell: Shell::at(&server.url()), server, folder };
    assert_eq!(stage.held("work").await, [2, 0, 0]);
}
