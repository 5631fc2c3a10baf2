//! What an import changes about a queue.

use serde_json::{Map, Value, json};

use super::file::Definition;
use crate::cli::output::{Column, Item, column};

pub(super) const COLUMNS: [Column; 5] = [
    column("CHANGE", "change"),
    column("QUEUE", "queue"),
    column("FIELD", "field"),
    column("BEFORE", "before"),
    column("AFTER", "after"),
];

/// A queue that is not what a file says it is.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    queue: String,
    is_new: bool,
    /// By path, with what was and what will be; null where it has its default.
    fields: Vec<(String, Value, Value)>,
}

impl Change {
    /// What has to be changed; nothing where the queue is as it should be.
    pub(super) fn between(there: Option<&Definition>, wanted: &Definition) -> Option<Self> {
        let (before, after) = (there.map(fields).unwrap_or_default(), fields(wanted));
        let paths = before.keys().chain(after.keys().filter(|path| !before.contains_key(*path)));
        let value = |of: &Map<String, Value>, path: &str| of.get(path).cloned().unwrap_or_default();
        let change = |path: &String| (path.clone(), value(&before, path), value(&after, path));
        let fields: Vec<_> =
            paths.map(change).filter(|(_, before, after)| before != after).collect();
        let is_new = there.is_none();
        (is_new || !fields.is_empty()).then(|| Self { queue: wanted.name.clone(), is_new, fields })
    }

    /// A line for each field, and one at least.
    pub(super) fn items(&self) -> Vec<Item> {
        let change = if self.is_new { "create" } else { "update" };
        let item = |field: Value, before: &Value, after: &Value| {
            let item = json!({
                "change": change,
                "queue": self.queue,
                "field": field,
                "before": before,
                "after": after,
            });
            let Value::Object(item) = item else { unreachable!("it was made as an object") };
            item
        };
        if self.fields.is_empty() {
            return vec![item(Value::Null, &Value::Null, &Value::Null)];
        }
        let fields = self.fields.iter();
        fields.map(|(path, before, after)| item(json!(path), before, after)).collect()
    }
}

/// What is said of a queue, by path.
fn fields(definition: &Definition) -> Map<String, Value> {
    let mut fields = Map::new();
    let told = serde_json::to_value(definition).expect("keys are strings");
    flatten("", &told, &mut fields);
    // In its place: the others keep their order.
    fields.shift_remove("name");
    fields
}

fn flatten(path: &str, value: &Value, fields: &mut Map<String, Value>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, fields);
            }
        }
        value => drop(fields.insert(path.to_owned(), value.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(text: &str) -> Definition {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let before = r#"{"name": "a", "labels": {"x": "1"},
            "policy": {"max_attempts": 3, "retry": {"jitter": 0.5}}}"#;
        let before = definition(before);
        assert_eq!(Change::between(Some(&before), &before), None);
        let after = r#"{"name": "a", "labels": {"x": "2"},
            "policy": {"max_leased": 3, "retry": {"jitter": 0.5}}}"#;
        let change = Change::between(Some(&before), &definition(after)).unwrap();
        let told: Vec<String> = change
            .items()
            .iter()
            .map(|item| {
                format!("{} {} {} {}", item["change"], item["field"], item["before"], item["after"])
            })
            .collect();
        let expected = [
            r#""update" "labels.x" "1" "2""#,
            r#""update" "policy.max_attempts" 3 null"#,
            r#""update" "policy.max_leased" null 3"#,
        ];
        assert_eq!(told, expected);
        let bare = definition(r#"{"name": "b"}"#);
        let created = Change::between(None, &bare).unwrap().items();
        assert_eq!((created.len(), &created[0]["change"]), (1, &json!("create")));
    }
}
