//! What comes later is refused by its feature's name, never ignored: every field and every rpc that
//! the protocol marks so, as its files say it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::{Broker, refusal};

/// What the files of the protocol mark as LATER, with its feature.
#[derive(Debug, Default)]
struct Marked {
    fields: BTreeMap<String, String>,
    rpcs: BTreeMap<String, String>,
}

fn feature_in(comment: &str) -> Option<String> {
    let (_, rest) = comment.split_once("(feature \"")?;
    Some(rest.split('"').next()?.to_owned())
}

/// The marks of all files.
fn marked() -> Marked {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/qbroker/v1");
    let mut marked = Marked::default();
    for entry in std::fs::read_dir(folder).unwrap() {
        marked.read(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    marked
}

impl Marked {
    /// Reads the marks from the comments above fields and rpcs, and at the head of a whole file.
    fn read(&mut self, text: &str) {
        let head: Vec<&str> = text.lines().take_while(|line| line.starts_with("//")).collect();
        let head = head.join(" ");
        let whole_file = head.starts_with("// LATER").then(|| feature_in(&head)).flatten();
        let (mut owner, mut comment) = (String::new(), String::new());
        for line in text.lines().map(str::trim) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let Some(words) = line.strip_prefix("//") {
                comment.push_str(words);
                continue;
            }
            let feature = if comment.contains("LATER") { feature_in(&comment) } else { None };
            match words[..] {
                ["message" | "service" | "enum", name, ..] => name.clone_into(&mut owner),
                ["rpc", rpc, ..] => {
                    let name = rpc.split('(').next().unwrap_or_default();
                    if let Some(feature) = feature.or_else(|| whole_file.clone()) {
                        self.rpcs.insert(format!("{owner}/{name}"), feature);
                    }
                }
                [.., name, "=", number] if number.ends_with(';') => {
                    if let Some(feature) = feature {
                        self.fields.insert(format!("{owner}.{name}"), feature);
                    }
                }
                _ => {}
            }
            comment.clear();
        }
    }
}

/// Nothing may be marked at times; then nothing else would show that marks are found.
#[test]
fn marks_are_found_at_rpcs_fields_and_files() {
    let mut marked = Marked::default();
    marked.read("service A {\n  // LATER (feature \"x\").\n  rpc B(C) returns (D);\n}\n");
    marked.read("message C {\n  // LATER (feature \"y\").\n  string d = 1;\n  string e = 2;\n}\n");
    marked
        .read("// LATER (feature \"z\"): all of it.\n\nservice F {\n  rpc G(H) returns (I);\n}\n");
    let of = |marks: BTreeMap<String, String>| marks.into_iter().map(|(at, it)| at + " " + &it);
    assert!(of(marked.rpcs).eq(["A/B x", "F/G z"]));
    assert!(of(marked.fields).eq(["C.d y"]));
}

/// The features that come later.
pub(super) fn features() -> BTreeSet<String> {
    let Marked { fields, rpcs } = marked();
    fields.into_values().chain(rpcs.into_values()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_that_comes_later_says_so() {
    let broker = Broker::start(&[]).await;
    for (rpc, feature) in marked().rpcs {
        let mut grpc = tonic::client::Grpc::new(broker.wire.channel());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::try_from(format!("/qbroker.v1.{rpc}")).unwrap();
        let codec = ProstCodec::<(), ()>::default();
        let refused = refusal(grpc.unary(tonic::Request::new(()), path, codec).await);
        assert_eq!(refused.is(), (Code::Unimplemented, "FEATURE_UNSUPPORTED"), "{rpc}");
        assert_eq!(refused.metadata["feature"], feature, "{rpc}");
    }
}

#[test]
fn no_field_comes_later() {
    // One that does is refused by its feature's name, and its test stands here.
    assert_eq!(marked().fields, BTreeMap::new());
}
