//! A picture that is being drawn, as an SVG.

use std::fmt::Write as _;

/// White, with a text size that the drawings count on.
pub(crate) struct Svg(String);

impl Svg {
    pub(crate) fn new(width: f64, height: f64) -> Self {
        let mut svg = Self(String::new());
        svg.add(&format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"13\">"
        ));
        svg.add("<rect width=\"100%\" height=\"100%\" fill=\"white\"/>");
        svg
    }

    pub(crate) fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        self.add(&format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{fill}\"/>"
        ));
    }

    pub(crate) fn text(&mut self, x: f64, y: f64, anchor: &str, more: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.add(&format!(
            "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\" {more}>{text}</text>"
        ));
    }

    /// A line through these points.
    pub(crate) fn line(&mut self, points: &[(f64, f64)], stroke: &str) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.add(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"1.5\"/>",
            points.join(" ")
        ));
    }

    fn add(&mut self, line: &str) {
        writeln!(self.0, "{line}").expect("a string takes everything");
    }

    pub(crate) fn end(mut self) -> String {
        self.add("</svg>");
        self.0
    }
}
