//! How far reports of beginnings are on their way out of the process.

/// Counts reports: those asked for, those lined up, and those that HTTP/2 has taken.
#[derive(Debug, Default)]
pub(super) struct Reports {
    asked: u64,
    /// In what the stream was given before it was last told that there is nothing more.
    lined_up: u64,
    taken: u64,
}

impl Reports {
    /// One more; its number.
    pub(super) fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// The stream has all that were asked for, and is told that there is nothing more: it hands on what it
    /// gathered.
    pub(super) fn line_up(&mut self) {
        self.lined_up = self.asked;
    }

    /// The stream asks again, which it does once HTTP/2 has taken what it had gathered. Whether that is
    /// news.
    pub(super) fn asked_again(&mut self) -> bool {
        let is_news = self.taken < self.lined_up;
        self.taken = self.lined_up;
        is_news
    }

    /// Whether some are lined up, and it is not known that HTTP/2 has taken them. The stream may have had
    /// nothing more to hand on when it was told to wait, and would never ask again by itself.
    pub(super) fn are_lined_up(&self) -> bool {
        self.taken < self.lined_up
    }

    pub(super) fn have_left(&self, report: u64) -> bool {
        report <= self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_left_when_the_stream_asks_again_after_it_was_told_to_wait() {
        let mut reports = Reports::default();
        let (first, second) = (reports.ask(), reports.ask());
        assert!(!reports.asked_again(), "it may be in a buffer still");
        reports.line_up();
        let third = reports.ask();
        assert!(!reports.have_left(first) && reports.are_lined_up());
        assert!(reports.asked_again() && !reports.are_lined_up());
        assert!(reports.have_left(first) && reports.have_left(second) && !reports.have_left(third));
        assert!(!reports.asked_again());
        reports.line_up();
        assert!(reports.asked_again() && reports.have_left(third));
    }
}
