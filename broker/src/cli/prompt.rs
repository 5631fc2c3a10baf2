//! Asks before something is gone for good.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use qbroker::exit::Exit;

use super::failure::Failure;
use super::globals::Globals;

impl Globals {
    /// Returns where the person agrees to `what` ("delete queue \"jobs\" and its 12 messages").
    ///
    /// # Errors
    /// Where the person declines, and where there is nobody to ask and no `--yes`.
    pub(super) fn confirm(&self, what: &str) -> Result<(), Failure> {
        self.confirm_or_say(what, "--yes")
    }

    /// The same of what needs other flags beside `--yes`.
    ///
    /// # Errors
    /// As [`Self::confirm`].
    pub(super) fn confirm_or_say(&self, what: &str, flags: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            let message = format!("refused to {what}: nobody to ask, so say {flags}");
            return Err(Failure::new(Exit::Usage, message));
        }
        let mut answer = String::new();
        write!(io::stderr(), "Really {what}? [y/N] ")?;
        io::stdin().lock().read_line(&mut answer)?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Failure::new(Exit::Negative, "nothing was done")),
        }
    }
}
