//! Memory and disk over time, as a picture with the phases in it.

use super::figure::MEBIBYTE;
use super::outcome::Outcome;
use super::recorder::Sample;
use crate::report::thousands;
use crate::svg::Svg;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 70.0;
const PLOT_WIDTH: f64 = 730.0;
const PLOT_HEIGHT: f64 = 170.0;
const HEAD: f64 = 60.0;
/// From the top of a panel to that of the next.
const PANEL: f64 = 240.0;
const LINE: f64 = 18.0;
const NAMES_ON_A_LINE: usize = 4;

/// A curve and how it is drawn.
struct Curve {
    name: &'static str,
    colour: &'static str,
    value: fn(&Sample) -> u64,
}

const MEMORY: [Curve; 2] = [
    Curve { name: "VmHWM", colour: "#cccccc", value: |sample| sample.peak_bytes },
    Curve { name: "held", colour: "#0b5394", value: |sample| sample.held_bytes },
];

const DISK: [Curve; 1] =
    [Curve { name: "data folder", colour: "#b45f06", value: |sample| sample.disk_bytes }];

/// An SVG of two panels over the same time.
pub(crate) fn draw(outcome: &Outcome) -> String {
    let lines = outcome.phases.len().div_ceil(NAMES_ON_A_LINE) as f64;
    let mut svg = Svg::new(WIDTH, HEAD + 2.0 * PANEL + LINE * lines);
    let title = format!("{}: {}", outcome.scenario, outcome.settings);
    svg.text(LEFT, 28.0, "start", "font-size=\"18\" font-weight=\"bold\"", &title);
    let end = outcome.samples.last().map_or(1.0, |sample| sample.seconds.max(0.001));
    panel(&mut svg, HEAD, "Memory, MiB", &MEMORY, outcome, end);
    panel(&mut svg, HEAD + PANEL, "Disk, MiB", &DISK, outcome, end);
    legend(&mut svg, HEAD + 2.0 * PANEL + 6.0, outcome);
    svg.end()
}

fn panel(svg: &mut Svg, top: f64, title: &str, curves: &[Curve], outcome: &Outcome, end: f64) {
    let values = |curve: &Curve| outcome.samples.iter().map(curve.value).max().unwrap_or_default();
    let most = curves.iter().map(values).max().unwrap_or_default();
    let most = round_up(most as f64 / MEBIBYTE);
    let (plot_top, bottom) = (top + 24.0, top + 24.0 + PLOT_HEIGHT);
    svg.text(LEFT, top + 12.0, "start", "font-weight=\"bold\"", title);
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        let y = bottom - share * PLOT_HEIGHT;
        svg.line(&[(LEFT, y), (LEFT + PLOT_WIDTH, y)], "#eeeeee");
        svg.text(LEFT - 8.0, y + 4.0, "end", "", &axis(share * most, most));
    }
    phases(svg, plot_top, bottom, outcome, end);
    let mut label = LEFT + PLOT_WIDTH;
    for curve in curves {
        let point = |sample: &Sample| {
            let share = (curve.value)(sample) as f64 / MEBIBYTE / most;
            (LEFT + sample.seconds / end * PLOT_WIDTH, bottom - share * PLOT_HEIGHT)
        };
        svg.line(&outcome.samples.iter().map(point).collect::<Vec<_>>(), curve.colour);
        svg.text(label, top + 12.0, "end", &format!("fill=\"{}\"", curve.colour), curve.name);
        label -= 100.0;
    }
    svg.text(LEFT + PLOT_WIDTH + 8.0, bottom + 4.0, "start", "", &format!("{end:.0} s"));
}

/// A line where each phase begins, and its number.
fn phases(svg: &mut Svg, top: f64, bottom: f64, outcome: &Outcome, end: f64) {
    for (number, phase) in (1..).zip(&outcome.phases) {
        let x = LEFT + phase.begin_seconds / end * PLOT_WIDTH;
        svg.line(&[(x, top), (x, bottom)], "#bbbbbb");
        svg.text(x, bottom + 18.0, "middle", "font-size=\"10\"", &format!("{number}"));
    }
}

/// Which number is which phase, a few on a line.
fn legend(svg: &mut Svg, top: f64, outcome: &Outcome) {
    let names: Vec<_> =
        (1..).zip(&outcome.phases).map(|(n, phase)| format!("{n} {}", phase.name)).collect();
    for (line, names) in (0..).map(f64::from).zip(names.chunks(NAMES_ON_A_LINE)) {
        svg.text(LEFT, top + line * LINE, "start", "", &names.join(", "));
    }
}

fn axis(value: f64, most: f64) -> String {
    if most < 4.0 { format!("{value:.2}") } else { thousands(value) }
}

/// To a round number of times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(0.1).log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|&step| value <= step).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_value() {
        let expected = [(0.3, 0.5), (1.0, 1.0), (130.0, 200.0), (999.0, 1000.0)];
        for (value, rounded) in expected {
            assert!((round_up(value) - rounded).abs() < 1e-9, "{value}");
        }
        assert!(0.0 < round_up(0.0));
    }
}
