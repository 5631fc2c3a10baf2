//! The broker's figures, as Prometheus scrapes them.
//!
//! Nothing is counted here: at each scrape a [`Snapshot`] is taken of the counters that the broker
//! keeps anyway, and written out by the table of [`METRICS`]. So a deleted queue vanishes by itself,
//! nothing is counted twice, and the hot path carries no metrics library.

use std::fmt::{self, Debug};

pub use self::figures::{
    Figures, Histogram, LogFigures, QueueFigures, SearchFigures, Snapshot, Sources,
};
pub use self::reference::reference_page;
pub use self::table::{Kind, METRICS, Metric, Sample, Value};

mod encode;
mod figures;
mod process;
mod queues;
mod reference;
mod table;

/// Writes the figures out on demand.
pub struct Registry(prometheus_client::registry::Registry);

impl Registry {
    /// The content type of what [`Registry::render`] returns.
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// A registry that asks `sources` at each scrape.
    pub fn new(sources: Sources) -> Self {
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(sources));
        Self(registry)
    }

    /// Every metric of the table in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        prometheus_client::encoding::text::encode(&mut text, &self.0)
            .expect("writing to a string cannot fail");
        text
    }
}

impl Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::{Duration, SystemTime};

    use crate::auth::Access;
    use crate::config::Settings;

    #[derive(Debug)]
    struct Fixed;

    impl Figures for Fixed {
        fn queues(&self) -> Vec<QueueFigures> {
            let jobs = QueueFigures {
                name: "jobs".to_owned(),
                ready: 3,
                oldest_ready_age: Duration::from_millis(1500),
                acked_total: 7,
                ..QueueFigures::default()
            };
            vec![jobs]
        }

        fn operations_running(&self) -> u64 {
            2
        }

        fn log(&self) -> LogFigures {
            let sync_seconds =
                Histogram { bounds: vec![0.001, 0.01], counts: vec![5, 2, 1], sum: 0.5 };
            LogFigures { sync_seconds, frames_total: 8, ..LogFigures::default() }
        }

        fn search(&self) -> SearchFigures {
            SearchFigures { names: 6, ..Default::default() }
        }
        fn state(&self) -> crate::queue::state::StateFigures {
            crate::queue::state::StateFigures { values: 4, ..Default::default() }
        }
    }

    /// A registry over figures that never change.
    pub(crate) fn registry() -> Registry {
        Registry::new(Sources {
            figures: Box::new(Fixed),
            access: Access::open(&Settings::default()).unwrap(),
            connections: std::sync::Arc::default(),
            health: crate::web::Health::default(),
            started: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
            recovery: Duration::from_millis(250),
        })
    }

    #[test]
    fn values_come_out_under_their_names_and_labels() {
        let page = registry().render();
        for line in [
            "qbroker_start_time_seconds 1000.0",
            "qbroker_recovery_duration_seconds 0.25",
            "qbroker_ready 0",
            "qbroker_queue_messages{queue=\"jobs\",state=\"ready\"} 3",
            "qbroker_queue_oldest_ready_age_seconds{queue=\"jobs\"} 1.5",
            "qbroker_state_entries{kind=\"value\"} 4",
            "qbroker_messages_acked_total{queue=\"jobs\"} 7",
            "qbroker_operations_running 2",
            "qbroker_log_sync_duration_seconds_bucket{le=\"0.001\"} 5",
            "qbroker_log_sync_duration_seconds_bucket{le=\"+Inf\"} 8",
            "qbroker_log_sync_duration_seconds_count 8",
            "qbroker_auth_failures_total{reason=\"missing\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn every_metric_of_the_table_is_on_the_page_and_follows_the_rules() {
        let page = registry().render();
        let mut names = BTreeSet::new();
        for metric in METRICS {
            assert!(names.insert(metric.name), "{} stands there twice", metric.name);
            let counter = metric.kind == Kind::Counter;
            assert_eq!(metric.name.ends_with("_total"), counter, "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            let shown = |line: &str| {
                line.strip_prefix(metric.name).is_some_and(|rest| rest.starts_with(['{', ' ', '_']))
            };
            assert!(page.lines().any(shown), "{} has no series", metric.name);
        }
    }
}
