//! Bugs to be planted in a copy of the source, to see that the tests find them.

use std::path::Path;

/// One bug, as `tests/mutations/list` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    pub name: String,
    /// What is wrong with it.
    pub what: String,
    /// The file, from the root of the source.
    pub path: String,
    /// Lines that stand there once.
    pub old: String,
    /// Lines in their place.
    pub new: String,
}

impl Mutation {
    /// The file with the bug in it.
    ///
    /// # Errors
    /// When the file has changed, and the lines are not there just once.
    pub fn plant(&self, source: &str) -> Result<String, String> {
        match source.matches(&self.old).count() {
            1 => Ok(source.replacen(&self.old, &self.new, 1)),
            count => Err(format!("{}: its lines are {count} times in {}", self.name, self.path)),
        }
    }
}

/// Every bug of the list below a source's root.
///
/// # Errors
/// When it cannot be read, or is not a list.
pub fn list(root: &Path) -> Result<Vec<Mutation>, String> {
    let path = root.join("tests/mutations/list");
    let text =
        std::fs::read_to_string(&path).map_err(|why| format!("{}: {why}", path.display()))?;
    text.split("\n\n").skip(1).map(parse).collect()
}

fn parse(block: &str) -> Result<Mutation, String> {
    let bad = || format!("no mutation: {block}");
    let (head, rest) = block.split_once('\n').ok_or_else(bad)?;
    let (name, what) = head.split_once(": ").ok_or_else(bad)?;
    let (path, lines) = rest.split_once('\n').ok_or_else(bad)?;
    let path = path.strip_prefix("@ ").ok_or_else(bad)?;
    let of = |sign: char| {
        let lines: Vec<&str> = lines.lines().filter_map(|line| line.strip_prefix(sign)).collect();
        lines.join("\n")
    };
    let owned = str::to_owned;
    let (old, new) = (of('-'), of('+'));
    if old.is_empty() || old == new {
        return Err(bad());
    }
    Ok(Mutation { name: owned(name), what: owned(what), path: owned(path), old, new })
}
