//! The reference page of the metrics, written from the table.

use super::table::{Kind, METRICS};

/// The text of `docs/reference/metrics.md`.
pub fn reference_page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = labels.join(", ");
        page.push_str(&format!("| `{}` | {kind} | {labels} | {} |\n", metric.name, metric.help));
    }
    page
}

const INTRODUCTION: &str = "\
# Metrics

<!-- Written by `qbroker config reference --metrics`; a test compares it. Change broker/src/metrics/table.rs. -->

`GET /metrics` on the HTTP listener, in the OpenMetrics text format, which Prometheus reads. Where the
listener requires a token, send it as `Authorization: Bearer <token>`.

Totals by queue count from the queue's creation on, over restarts; all other totals count from the
start of the process. The 200 most active queues have series of their own; what the others hold and
did is summed up under `queue=\"_other\"`, so that sums over all queues stay right. A queue that is
deleted takes its series with it.

| Metric | Kind | Labels | Meaning |
| --- | --- | --- | --- |
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_repository_is_the_one_the_table_gives() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            stored == reference_page(),
            "out of date: cargo run -- config reference --metrics > docs/reference/metrics.md"
        );
    }
}
