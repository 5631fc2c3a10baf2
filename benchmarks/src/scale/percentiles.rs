//! Times, told by their percentiles.

use hdrhistogram::Histogram;

use super::figure::{Figure, Unit};

/// p50, p99, p99.9 and the most, of nanoseconds.
pub(crate) fn figures(what: &str, times: &Histogram<u64>, in_flight: u32) -> [Figure; 4] {
    let figure = |which: &str, nanoseconds: u64| {
        Figure::new(format!("{what}, {which}"), milliseconds(nanoseconds), Unit::Milliseconds)
            .in_flight(in_flight)
    };
    [
        figure("p50", times.value_at_quantile(0.5)),
        figure("p99", times.value_at_quantile(0.99)),
        figure("p99.9", times.value_at_quantile(0.999)),
        figure("most", times.max()),
    ]
}

pub(crate) fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::histogram;

    #[test]
    fn percentiles_are_in_milliseconds() {
        let mut times = histogram();
        (1..=1_000_u64).for_each(|ms| times.record(ms * 1_000_000).unwrap());
        let values = figures("x", &times, 1).map(|figure| figure.value.round());
        let expected = [500.0, 990.0, 999.0, 1000.0];
        let near = |(value, expected): (&f64, f64)| (value - expected).abs() <= 1.0;
        assert!(values.iter().zip(expected).all(near), "{values:?}");
    }
}
