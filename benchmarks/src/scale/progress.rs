//! How far it is, on a terminal's stderr; nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// The line that says what is going on.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::no_length();
        let style = "{elapsed_precise} {msg}: {human_pos} of {human_len} {wide_bar} {per_sec}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is well-formed"));
        bar.enable_steady_tick(Duration::from_millis(500));
        Self(bar)
    }

    /// Something begins; of so many messages where that is known.
    pub(crate) fn begin(&self, what: &str, messages: Option<u64>) {
        self.0.set_message(what.to_owned());
        match messages {
            Some(messages) => self.0.set_length(messages),
            None => self.0.unset_length(),
        }
        self.0.set_position(0);
        self.0.reset_eta();
    }

    /// So many more are done.
    pub(crate) fn add(&self, messages: u64) {
        self.0.inc(messages);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
