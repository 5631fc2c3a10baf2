//! Writes a snapshot out through the Prometheus library, row by row of the table.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::table::{Kind, METRICS, Metric, Sample, Value};
use super::{Histogram, Sources};

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.snapshot();
        for metric in METRICS {
            let samples = (metric.read)(&snapshot);
            let mut family = describe(metric, &mut encoder)?;
            for sample in samples {
                write(metric, &sample, &mut family)?;
            }
        }
        Ok(())
    }
}

fn describe<'a>(
    metric: &'a Metric,
    encoder: &'a mut DescriptorEncoder<'_>,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    let kind = match metric.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    };
    // The library adds the suffix of counters itself.
    let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
    encoder.encode_descriptor(name, metric.help, None, kind)
}

fn write(metric: &Metric, sample: &Sample, family: &mut MetricEncoder<'_>) -> fmt::Result {
    if metric.labels.is_empty() {
        return write_value(metric.kind, &sample.value, family);
    }
    let values = sample.labels.iter().map(String::as_str);
    let labels: Vec<(&str, &str)> = metric.labels.iter().copied().zip(values).collect();
    write_value(metric.kind, &sample.value, &mut family.encode_family(&labels)?)
}

fn write_value(kind: Kind, value: &Value, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Whole(count)) => {
            encoder.encode_counter::<NoLabelSet, _, u64>(count, None)
        }
        (Kind::Counter, Value::Real(sum)) => {
            encoder.encode_counter::<NoLabelSet, _, u64>(sum, None)
        }
        (Kind::Gauge, Value::Whole(count)) => encoder.encode_gauge(count),
        (Kind::Gauge, Value::Real(measure)) => encoder.encode_gauge(measure),
        (Kind::Histogram, Value::Spread(histogram)) => write_histogram(histogram, encoder),
        (Kind::Counter | Kind::Gauge, Value::Spread(_))
        | (Kind::Histogram, Value::Whole(_) | Value::Real(_)) => {
            unreachable!("a test renders every row of the table")
        }
    }
}

fn write_histogram(histogram: &Histogram, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
    let bounds = histogram.bounds.iter().copied().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(histogram.counts.iter().copied()).collect();
    let count = histogram.counts.iter().sum();
    encoder.encode_histogram::<NoLabelSet>(histogram.sum, count, &buckets, None)
}
