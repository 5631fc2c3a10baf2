//! The comparison as a picture: a panel for each rate, a bar for each participant.

use super::peer::Name;
use super::table::{Comparison, Participant};
use crate::report::thousands;
use crate::row::Row;
use crate::svg::Svg;

/// What is drawn: the rows that give a rate at full batches.
const PANELS: [(Row, &str); 3] = [
    (Row::PublishBatches, "publish, confirmed"),
    (Row::Consume, "consume + ack"),
    (Row::Both, "both at once"),
];

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 20.0;
/// Where bars begin, right of the titles.
const BARS_LEFT: f64 = 220.0;
/// Of the longest bar; its figure stands to the right of it.
const BAR_MAX: f64 = 500.0;
const LINE: f64 = 24.0;
const BAR_HEIGHT: f64 = 16.0;
const HEAD: f64 = 76.0;
const PANEL_GAP: f64 = 44.0;

/// An SVG of the rates. Bars are linear from 0 and each panel has its own scale.
pub(crate) fn draw(comparison: &Comparison) -> String {
    let lines = comparison.participants.len() as f64;
    let panel_height = lines * LINE + PANEL_GAP;
    let height = HEAD + panel_height * PANELS.len() as f64;
    let mut svg = Svg::new(WIDTH, height);
    svg.text(MARGIN, 28.0, "start", "font-size=\"18\" font-weight=\"bold\"", "Messages per second");
    legend(&mut svg);
    for (panel, (row, title)) in PANELS.iter().enumerate() {
        let top = HEAD + panel_height * panel as f64;
        svg.text(MARGIN, top + 14.0, "start", "font-weight=\"bold\"", title);
        bars(&mut svg, top + 24.0, *row, &comparison.participants);
    }
    svg.end()
}

fn legend(svg: &mut Svg) {
    let entries = [
        (Colour::Qbroker, "qbroker"),
        (Colour::Synced, "on disk before the confirm"),
        (Colour::NotSynced, "not on disk before the confirm"),
        (Colour::Floor, "no broker"),
    ];
    let mut left = MARGIN;
    for (colour, text) in entries {
        svg.bar(left, 44.0, 12.0, 12.0, colour.code());
        svg.text(left + 18.0, 54.0, "start", "", text);
        // Seven units a letter at this size, and a gap.
        left += 18.0 + 7.0 * text.len() as f64 + 24.0;
    }
}

fn bars(svg: &mut Svg, top: f64, row: Row, participants: &[Participant]) {
    let rate = |participant: &Participant| {
        let figures = participant.rows.iter().find(|figures| figures.row == row)?;
        Some(figures.figures.figure.median)
    };
    let most = participants.iter().filter_map(rate).fold(1.0, f64::max);
    for (line, participant) in participants.iter().enumerate() {
        let y = top + LINE * line as f64;
        svg.text(BARS_LEFT - 8.0, y + 13.0, "end", "", participant.about.title);
        let Some(rate) = rate(participant) else {
            svg.text(BARS_LEFT + 6.0, y + 13.0, "start", "", "failed");
            continue;
        };
        // A figure that is there is seen.
        let width = (rate / most * BAR_MAX).max(1.0);
        svg.bar(BARS_LEFT, y, width, BAR_HEIGHT, Colour::of(participant).code());
        svg.text(BARS_LEFT + width + 6.0, y + 13.0, "start", "", &thousands(rate));
    }
}

#[derive(Clone, Copy)]
enum Colour {
    Qbroker,
    Synced,
    NotSynced,
    Floor,
}

impl Colour {
    fn of(participant: &Participant) -> Self {
        match participant.about.name {
            Name::Qbroker => Self::Qbroker,
            Name::Floor => Self::Floor,
            _ if participant.about.confirm.synced => Self::Synced,
            _ => Self::NotSynced,
        }
    }

    /// Told apart without seeing colours, too: they get lighter.
    fn code(self) -> &'static str {
        match self {
            Self::Qbroker => "#0b5394",
            Self::Synced => "#6fa8dc",
            Self::NotSynced => "#f6b26b",
            Self::Floor => "#cccccc",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::table::tests::comparison;

    #[test]
    fn every_participant_has_a_bar_in_every_panel() {
        let svg = draw(&comparison());
        let bars = svg.lines().filter(|line| line.starts_with("<rect x=\"220\"")).count();
        assert_eq!(bars, PANELS.len() * comparison().participants.len(), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    }

    #[test]
    fn the_longest_bar_is_the_highest_rate_and_the_others_are_in_proportion() {
        let svg = draw(&comparison());
        assert!(svg.contains("width=\"500.0\" height=\"16\" fill=\"#0b5394\""), "{svg}");
        assert!(svg.contains("width=\"25.0\" height=\"16\" fill=\"#6fa8dc\""), "{svg}");
    }
}
