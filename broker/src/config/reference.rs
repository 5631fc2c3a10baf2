//! The reference page of the settings, written from the table.

use super::{Fallback, SETTINGS, Setting};

/// The text of `docs/reference/configuration.md`.
pub fn reference_page() -> String {
    let mut page = INTRODUCTION.to_owned();
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            page.push_str(&format!("\n## {section}\n"));
        }
        page.push_str(&entry(setting));
    }
    page
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Written by `qbroker config reference`; a test compares it. Change broker/src/config/table.rs. -->

`qbroker serve` needs no configuration. Each setting below has one name, `max-payload` say, and can be
given in three places; the first that has it wins:

1. as a flag, `--max-payload 1MiB`;
2. as an environment variable, `QBROKER_MAX_PAYLOAD=1MiB`;
3. in a TOML file named by `--config FILE` or `QBROKER_CONFIG`, `max-payload = \"1MiB\"`.

A key that does not exist is an error with its line; a variable that starts with `QBROKER_` and means
nothing is a warning. `qbroker config show --origin` prints every value and where it came from,
`qbroker config check` only says whether the whole is right. No setting holds a secret itself: keys
and tokens are in files of their own.

Sizes are whole numbers with `KiB`, `MiB`, `GiB`, `TiB` (or `kB`, `MB`, ...); durations look like
`500ms`, `30s` or `2m`.
";

fn entry(setting: &Setting) -> String {
    let default = match setting.default {
        Fallback::Text("") => "none".to_owned(),
        Fallback::Text(text) => format!("`{text}`"),
        Fallback::Computed(_, how) => how.to_owned(),
    };
    let advanced = if setting.advanced { " Advanced." } else { "" };
    format!(
        "\n### `{name}`\n\n`--{name} {takes}`, `{variable}`. Default: {default}.{advanced}\n\n{doc}\n",
        name = setting.name,
        takes = setting.takes,
        variable = setting.variable(),
        doc = setting.doc,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_repository_is_the_one_the_table_gives() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/configuration.md");
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            stored == reference_page(),
            "out of date: cargo run -- config reference > docs/reference/configuration.md"
        );
    }
}
