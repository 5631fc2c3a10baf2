//! Prints what a command found: a table for people, lines and JSON for programs.

use std::io::{self, IsTerminal as _, Write};
use std::time::SystemTime;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value};

use super::globals::Format;

/// One column of a list: its title for people, its key for programs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// The title above it.
    pub(super) title: &'static str,
    /// The key in each item.
    pub(super) key: &'static str,
}

/// A column. Titles are upper case, keys as in JSON.
pub(super) const fn column(title: &'static str, key: &'static str) -> Column {
    Column { title, key }
}

/// One thing found, by key; may hold more than the columns show.
pub(super) type Item = Map<String, Value>;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    format: Option<Format>,
    headers: bool,
}

impl Output {
    /// Prints as `format` says, or as suits the place stdout leads to.
    pub(super) fn new(format: Option<Format>, headers: bool) -> Self {
        Self { format, headers }
    }

    /// The format, where nobody chose one: a table on a terminal, else plain lines.
    fn format(self) -> Format {
        let usual = || if io::stdout().is_terminal() { Format::Table } else { Format::Plain };
        self.format.unwrap_or_else(usual)
    }

    /// Whether somebody chose the format, where JSON lines are usual.
    pub(super) fn is_chosen(self) -> bool {
        self.format.is_some()
    }

    /// Whether what is printed are columns.
    pub(super) fn has_columns(self) -> bool {
        matches!(self.format(), Format::Table | Format::Plain)
    }

    /// Prints a list.
    ///
    /// # Errors
    /// Where stdout cannot be written.
    pub(super) fn list(self, columns: &[Column], items: Vec<Item>) -> io::Result<()> {
        let text = self.render_list(columns, items);
        write_out(&text)
    }

    /// Prints one item: keys and values below each other, or one JSON object. Where nobody reads, what it
    /// tells of was done all the same, and the exit code says how.
    ///
    /// # Errors
    /// Where stdout cannot be written.
    pub(super) fn item(self, columns: &[Column], item: Item) -> io::Result<()> {
        unless_nobody_reads(write_out(&self.render_item(columns, item)))
    }

    /// [`Self::list`] of what was done, as [`Self::item`] tells it.
    ///
    /// # Errors
    /// Where stdout cannot be written.
    pub(super) fn report(self, columns: &[Column], items: Vec<Item>) -> io::Result<()> {
        unless_nobody_reads(self.list(columns, items))
    }

    /// The titles above a list whose end is not known; nothing where its lines are JSON.
    pub(super) fn stream_head(self, columns: &[Column]) -> String {
        match self.format() {
            Format::Table | Format::Plain => self.plain(columns, &[]),
            Format::Json | Format::Jsonl => String::new(),
        }
    }

    /// One line of such a list.
    pub(super) fn stream_line(self, columns: &[Column], item: Item) -> String {
        match self.format() {
            Format::Table | Format::Plain => {
                Self { headers: false, ..self }.plain(columns, &[item])
            }
            Format::Json | Format::Jsonl => line(&item),
        }
    }

    /// What [`Self::list`] prints.
    pub(super) fn render_list(self, columns: &[Column], items: Vec<Item>) -> String {
        match self.format() {
            Format::Table => self.table(columns, &items),
            Format::Plain => self.plain(columns, &items),
            Format::Json => pretty(&Value::from_iter(items)),
            Format::Jsonl => items.iter().map(line).collect(),
        }
    }

    fn render_item(self, columns: &[Column], item: Item) -> String {
        match self.format() {
            Format::Table => {
                let mut table = blank_table();
                for column in columns {
                    table.add_row([column.title.to_lowercase(), cell(item.get(column.key))]);
                }
                trimmed(&table)
            }
            Format::Plain => {
                let row =
                    |column: &Column| format!("{}\t{}\n", column.key, cell(item.get(column.key)));
                columns.iter().map(row).collect()
            }
            Format::Json => pretty(&Value::Object(item)),
            Format::Jsonl => line(&item),
        }
    }

    fn table(self, columns: &[Column], items: &[Item]) -> String {
        let mut table = blank_table();
        if self.headers {
            table.set_header(columns.iter().map(|column| column.title));
        }
        for item in items {
            table.add_row(columns.iter().map(|column| cell(item.get(column.key))));
        }
        for (index, column) in columns.iter().enumerate() {
            let numbers =
                items.iter().any(|item| item.get(column.key).is_some_and(Value::is_number));
            if let Some(column) = table.column_mut(index).filter(|_| numbers) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        trimmed(&table)
    }

    fn plain(self, columns: &[Column], items: &[Item]) -> String {
        let titles = columns.iter().map(|column| column.title.to_owned()).collect::<Vec<_>>();
        let rows = items.iter().map(|item| {
            columns.iter().map(|column| cell(item.get(column.key))).collect::<Vec<_>>()
        });
        let all = self.headers.then_some(titles).into_iter().chain(rows);
        all.map(|cells| cells.join("\t") + "\n").collect()
    }
}

/// RFC 3339, in UTC; nothing where the time is unset or beyond the calendar.
pub(super) fn time(time: Option<SystemTime>) -> Value {
    let timestamp = time.and_then(|time| jiff::Timestamp::try_from(time).ok());
    timestamp.map_or(Value::Null, |timestamp| Value::from(timestamp.to_string()))
}

fn unless_nobody_reads(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes text to stdout, and makes sure that it arrives.
///
/// # Errors
/// Where stdout cannot be written.
pub(super) fn write_out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// One JSON object and the end of its line.
pub(super) fn line(item: &Item) -> String {
    serde_json::to_string(item).expect("keys are strings") + "\n"
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("keys are strings") + "\n"
}

fn blank_table() -> Table {
    let mut table = Table::new();
    // Never wrapped: a cell on two lines cannot be copied, and a pipe has no width.
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// The table without the blanks that fill up its last column.
fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A value in one cell: text bare, nothing as `-`, and never a character that moves the cursor.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::Array(values)) if values.is_empty() => "-".to_owned(),
        Some(Value::Object(values)) if values.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => visible(text),
        Some(other) => visible(&other.to_string()),
    }
}

/// Control characters written out: what a message holds must not drive somebody's terminal.
fn visible(text: &str) -> String {
    let escape = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const COLUMNS: [Column; 3] =
        [column("NAME", "name"), column("READY", "ready"), column("NOTE", "note")];

    fn items() -> Vec<Item> {
        let items = [
            json!({"name": "jobs", "ready": 1200, "note": "a\tb\u{1b}[2J", "more": [1]}),
            json!({"name": "mail.dead", "ready": 3, "note": null}),
        ];
        items.into_iter().map(|item| item.as_object().unwrap().clone()).collect()
    }

    fn render(format: Format, headers: bool) -> String {
        Output::new(Some(format), headers).render_list(&COLUMNS, items())
    }

    #[test]
    fn a_table_lines_up_and_cannot_drive_the_terminal() {
        assert_eq!(
            render(Format::Table, true),
            " NAME       READY  NOTE\n jobs        1200  a\\tb\\u{1b}[2J\n mail.dead      3  -\n"
        );
        assert!(render(Format::Table, false).starts_with(" jobs "));
    }

    #[test]
    fn plain_lines_have_tabs_between_columns() {
        assert_eq!(
            render(Format::Plain, true),
            "NAME\tREADY\tNOTE\njobs\t1200\ta\\tb\\u{1b}[2J\nmail.dead\t3\t-\n"
        );
        assert_eq!(render(Format::Plain, false).lines().count(), 2);
    }

    #[test]
    fn json_holds_everything_once() {
        let whole: Value = serde_json::from_str(&render(Format::Json, true)).unwrap();
        assert_eq!(whole[0]["more"], json!([1]));
        let lines = render(Format::Jsonl, true);
        let parsed: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(Value::from(parsed), whole);
    }

    #[test]
    fn one_item_is_a_list_of_keys() {
        let item = items().remove(1);
        let output = Output::new(Some(Format::Plain), true);
        assert_eq!(output.render_item(&COLUMNS, item), "name\tmail.dead\nready\t3\nnote\t-\n");
    }
}
