//! Names of the simulated disk: a change of one lasts only once its folder is synced.

use std::collections::BTreeMap;

/// A change of names that no sync of a folder has made durable.
#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Link { path: String, node: usize },
    Rename { from: String, to: String },
    Unlink { path: String },
}

impl NameChange {
    pub(super) fn touches(&self, dir: &str) -> bool {
        match self {
            Self::Link { path, .. } | Self::Unlink { path } => folder_of(path) == dir,
            Self::Rename { from, to } => folder_of(from) == dir || folder_of(to) == dir,
        }
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link { path, node } => {
                names.insert(path.clone(), *node);
            }
            Self::Rename { from, to } => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
            Self::Unlink { path } => {
                names.remove(path);
            }
        }
    }
}

/// The folder that a file is in.
pub(super) fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
