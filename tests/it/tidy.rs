//! What must not be there: the architecture is told by absences, and absences are checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above")
}

/// Every file of the repository, tracked or about to be, relative to its root.
fn files() -> Vec<String> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root());
    let listed = git.output().expect("git runs");
    assert!(listed.status.success(), "the tests run in a git checkout");
    let listed = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    let there = |path: &&str| root().join(path).is_file();
    let files: Vec<String> = listed.lines().filter(there).map(str::to_owned).collect();
    assert!(files.iter().any(|path| path == "broker/src/lib.rs"), "it lists this repository");
    files
}

fn sources() -> Vec<(String, String)> {
    let rust = files().into_iter().filter(|path| path.ends_with(".rs"));
    let sources: Vec<_> = rust.map(|path| (path.clone(), read(&path))).collect();
    assert!(100 < sources.len(), "there are more sources than {}", sources.len());
    sources
}

fn read(path: &str) -> String {
    let bytes = std::fs::read(root().join(path)).expect("it was listed");
    String::from_utf8(bytes).unwrap_or_else(|_| panic!("{path} is not UTF-8"))
}

/// A source without its unit tests, which stand at its end.
fn without_tests(source: &str) -> &str {
    let module = |(at, _): &(usize, &str)| {
        let after = source[*at..].lines().nth(1).unwrap_or_default();
        after.starts_with("mod ") || after.starts_with("pub")
    };
    let end = source.match_indices("#[cfg(test)]\n").find(module);
    end.map_or(source, |(at, _)| &source[..at])
}

/// The sources below `folder`, but for tests in files of their own.
fn below(folder: &str) -> Vec<(String, String)> {
    let mut sources = sources();
    sources.retain(|(path, _)| {
        path.starts_with(folder) && !path.contains("/tests/") && !path.ends_with("/tests.rs")
    });
    assert!(!sources.is_empty(), "nothing is below {folder}");
    sources
}

/// Every line of `sources` that holds one of `words`, but in comments.
fn lines_with(sources: &[(String, String)], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, source) in sources {
        for (number, line) in without_tests(source).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

/// The crates of the workspace, and what each needs when it is not tested.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let told = cargo.current_dir(root()).output().expect("cargo runs");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let metadata: Value = serde_json::from_slice(&told.stdout).expect("cargo writes JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let needs = |package: &Value| {
        let all = package["dependencies"].as_array().expect("a list").iter();
        all.filter(|needed| needed["kind"] != "dev").map(|needed| text(&needed["name"])).collect()
    };
    let packages = metadata["packages"].as_array().expect("a list").iter();
    packages.map(|package| (text(&package["name"]), needs(package))).collect()
}

#[test]
fn arrows_between_crates_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("qbroker-proto", &[][..]),
        ("qbroker-allocator", &[]),
        ("qbroker-storage", &[]),
        ("qbroker-client", &["qbroker-proto"]),
        // The command line is a client.
        ("qbroker", &["qbroker-allocator", "qbroker-proto", "qbroker-storage", "qbroker-client"]),
        ("qbroker-worker", &["qbroker-client", "qbroker-worker-macros"]),
        ("qbroker-worker-macros", &[]),
    ]);
    let dependencies = dependencies();
    for (krate, allowed) in allowed {
        let needed = dependencies.get(krate).unwrap_or_else(|| panic!("there is no {krate}"));
        let own = needed.iter().filter(|name| name.starts_with("qbroker"));
        let wrong: Vec<_> = own.filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(wrong.is_empty(), "{krate} must not know {wrong:?}");
    }
}

#[test]
fn storage_knows_no_runtime_and_no_protocol() {
    let needed = &dependencies()["qbroker-storage"];
    for foreign in ["tokio", "tonic", "prost", "hyper", "axum", "futures-util", "sled", "tracing"] {
        assert!(!needed.contains(foreign), "storage must not know {foreign}");
    }
    let found = lines_with(&below("storage/src"), &["async fn", ".await", "qbroker_proto"]);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_queues_know_no_clock_disk_network_thread_or_chance() {
    let words = [
        "std::fs",
        "std::net",
        "std::thread",
        "std::io",
        "std::time",
        "std::process",
        "std::env",
        "Instant",
        "SystemTime",
        "tokio",
        "tonic",
        "qbroker_proto",
        "rustix",
        "getrandom",
        "rand::",
        "async fn",
        ".await",
        "tracing",
        "Mutex",
        "RwLock",
        "Atomic",
        "crate::engine",
        "crate::grpc",
        "crate::clock",
        "crate::server",
        "crate::config",
    ];
    let found = lines_with(&below("broker/src/queue"), &words);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn generated_types_stay_at_the_edge() {
    // The command line prints the protocol's own names of states and reasons.
    let allowed = ["broker/src/grpc/", "broker/src/cli/"];
    let mut sources = below("broker/src");
    sources.retain(|(path, _)| !allowed.iter().any(|allowed| path.starts_with(allowed)));
    let found = lines_with(&sources, &["qbroker_proto", "tonic::Status", "tonic::Code"]);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn files_are_touched_in_few_places() {
    let allowed = [
        ("storage/src/disk.rs", "the disk itself"),
        ("broker/src/auth/file.rs", "the tokens, which must be readable by people"),
        ("broker/src/auth/bootstrap.rs", "the first token"),
        ("broker/src/config/layers.rs", "the settings file"),
        ("broker/src/clock.rs", "the boot id, under /proc"),
        ("broker/src/metrics/process.rs", "the process, under /proc"),
        ("broker/src/search/folder.rs", "the search index, which may be lost"),
        ("broker/src/cli/", "what a person names on the command line"),
    ];
    let mut sources = below("storage/src");
    sources.extend(below("broker/src"));
    sources.extend(below("client/src"));
    sources.retain(|(path, _)| !allowed.iter().any(|(allowed, _)| path.starts_with(allowed)));
    let found = lines_with(&sources, &["std::fs", "tokio::fs", "use std::{fs"]);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_clocks_are_read_in_few_places() {
    let mut sources = below("broker/src/engine");
    sources.extend(below("broker/src/grpc"));
    let found = lines_with(&sources, &["SystemTime::now", "clock_gettime"]);
    assert!(found.is_empty(), "time comes from `clock`, which a test can move: {found:#?}");
}

#[test]
fn no_file_is_too_long_to_read() {
    // With the reason why each is longer than 600 lines.
    let reasons: BTreeMap<&str, &str> = BTreeMap::new();
    let mut long = BTreeSet::new();
    for (path, source) in sources() {
        if 600 < source.lines().count() {
            long.insert(path);
        }
    }
    let unexplained: Vec<_> =
        long.iter().filter(|path| !reasons.contains_key(path.as_str())).collect();
    assert!(unexplained.is_empty(), "split them, or give a reason here: {unexplained:?}");
    let gone: Vec<_> = reasons.keys().filter(|path| !long.contains(**path)).collect();
    assert!(gone.is_empty(), "the reason is needed no more: {gone:?}");
}

#[test]
fn no_module_is_named_for_nothing() {
    let empty = ["util", "utils", "common", "helper", "helpers", "manager", "misc", "core"];
    for path in files().iter().map(PathBuf::from) {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let rust = path.extension().is_some_and(|extension| extension == "rs");
        assert!(!rust || !empty.contains(&stem), "{} says nothing by its name", path.display());
    }
}

#[test]
fn nothing_unfinished_is_left_and_sources_are_ascii() {
    // Put together here, so that this file does not hold them.
    let words = ["FIX\u{4d}E", "XX\u{58}", "dbg\u{21}(", "todo\u{21}(", "unimplemented\u{21}("];
    let ignored = format!("#[{}", "ignore");
    for (path, source) in sources() {
        for (number, line) in source.lines().enumerate() {
            let at = format!("{path}:{}", number + 1);
            assert!(line.is_ascii(), "{at} is not ASCII: {line}");
            for word in words {
                assert!(!line.contains(word), "{at} is unfinished: {line}");
            }
            let slow = "slow tests run with QBROKER_SLOW=1";
            assert!(!line.trim_start().starts_with(&ignored), "{at}: {slow}, they are not ignored");
        }
    }
}

#[test]
fn every_source_says_what_it_is_for() {
    for (path, source) in sources() {
        let generated = path.ends_with("build.rs") && source.is_empty();
        assert!(generated || source.starts_with("//!"), "{path} does not begin with its purpose");
    }
}

#[test]
fn the_image_is_built_with_the_compiler_that_the_manifest_names() {
    let manifest = read("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let version = version.expect("the workspace names one").trim_matches('"');
    let from = format!("FROM docker.io/library/rust:{version}-bookworm AS build");
    assert!(read("Dockerfile").lines().any(|line| line == from), "the Dockerfile lacks: {from}");
}

#[test]
fn the_image_the_composition_and_the_unit_set_what_is_a_setting() {
    let reference = read("docs/reference/configuration.md");
    for path in ["Dockerfile", "compose.yaml", "deploy/qbroker.service"] {
        let text = read(path);
        let words = text.split(|letter: char| !letter.is_ascii_uppercase() && letter != '_');
        // The client's token is in the composition, too, and the unit speaks of all settings at once.
        let ours = |word: &&str| word.starts_with("QBROKER_") && !word.ends_with('_');
        let names: BTreeSet<_> =
            words.filter(ours).filter(|&word| word != "QBROKER_TOKEN").collect();
        assert!(!names.is_empty(), "{path} sets something");
        for name in names {
            assert!(reference.contains(&format!("`{name}`")), "{path}: there is no setting {name}");
        }
    }
}

#[test]
fn no_large_file_is_in_the_repository() {
    for path in files() {
        let bytes = std::fs::metadata(root().join(&path)).expect("it was listed").len();
        assert!(bytes <= 500_000, "{path} has {bytes} bytes");
    }
}

#[test]
fn what_happens_where_two_features_meet_is_pinned_by_a_transcript() {
    let page = read("docs/semantics.md");
    let (_, table) = page.split_once("| Pinned by |").expect("the page has its table");
    let rows: Vec<&str> = table.lines().skip(2).filter(|line| line.starts_with('|')).collect();
    assert!(40 < rows.len(), "{} rows", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [.., by] = cells[..] else { panic!("{row}") };
        assert_eq!(cells.len(), 4, "{row}");
        let by = by.trim_matches('`');
        // What the core knows nothing of is tested with the whole broker.
        let file = by.replace("::", "/");
        let places = match by.contains("::") {
            true => [format!("tests/it/{file}.rs"), format!("broker/src/{file}.rs")],
            false => [format!("broker/src/queue/testdata/{by}.txt"), String::new()],
        };
        let is_there = places.iter().any(|place| root().join(place).is_file());
        assert!(is_there, "there is none of {places:?}: {row}");
    }
}

#[test]
fn what_a_worker_promises_is_pinned_by_its_tests() {
    let page = read("docs/semantics.md");
    let (_, table) = page.split_once("| Tested by |").expect("the page has its table");
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(10 < rows.len(), "{} rows", rows.len());
    let of_worker =
        |path: &str| path.starts_with("worker/tests/") || path.starts_with("tests/it/worker/");
    let tests = sources().into_iter().filter(|(path, _)| of_worker(path));
    let tests: String = tests.map(|(_, text)| text).collect();
    for row in rows {
        let name = row.trim_matches('|').rsplit(" | ").next().expect("it has cells").trim();
        let name = name.trim_matches('`');
        assert!(tests.contains(&format!("fn {name}()")), "there is no test {name}");
    }
}
