//! A terminal that is drawn anew again and again, and given back as it was.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// Another page, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// What was there before, with its cursor.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the upper left corner.
const HOME: &str = "\x1b[H";
/// Nothing behind this on the line, and on to the next one.
const END_OF_LINE: &str = "\x1b[K\r\n";
/// Nothing below this.
const END: &str = "\x1b[J";
/// Where the terminal does not say how large it is.
const LINES: u16 = 24;
const WIDTH: u16 = 80;

/// The terminal while it is ours. Dropped, it is as it was.
#[derive(Debug)]
pub(super) struct Screen {
    /// How keys were read before; where somebody can type.
    before: Option<Termios>,
    keys: mpsc::Receiver<u8>,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(super) fn open() -> io::Result<Self> {
        let before = if io::stdin().is_terminal() { tcgetattr(io::stdin()).ok() } else { None };
        let (sender, keys) = mpsc::channel(1);
        if let Some(before) = &before {
            let mut each_key = before.clone();
            // Ctrl-C stays a signal.
            each_key.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            tcsetattr(io::stdin(), OptionalActions::Now, &each_key)?;
            // Reading a key cannot be given up: the thread ends with the process.
            std::thread::spawn(move || {
                let mut key = [0];
                while let Ok(1) = io::stdin().lock().read(&mut key) {
                    if sender.blocking_send(key[0]).is_err() {
                        return;
                    }
                }
            });
        }
        let screen = Self { before, keys };
        write(ENTER)?;
        Ok(screen)
    }

    /// How many lines there are.
    pub(super) fn lines(&self) -> usize {
        self.size().0
    }

    /// Draws this text in the place of what was there, as much of it as fits.
    ///
    /// # Errors
    /// Where the terminal cannot be written.
    pub(super) fn draw(&self, text: &str) -> io::Result<()> {
        let (lines, width) = self.size();
        let shown: Vec<String> =
            text.lines().take(lines).map(|line| line.chars().take(width).collect()).collect();
        write(&format!("{HOME}{}{END}", shown.join(END_OF_LINE) + "\x1b[K"))
    }

    /// Waits until somebody types q; for ever where nobody can.
    pub(super) async fn quit(&mut self) {
        while let Some(key) = self.keys.recv().await {
            if matches!(key, b'q' | b'Q') {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    fn size(&self) -> (usize, usize) {
        let known = tcgetwinsize(io::stdout()).ok().filter(|it| it.ws_row != 0 && it.ws_col != 0);
        let (lines, width) = known.map_or((LINES, WIDTH), |it| (it.ws_row, it.ws_col));
        (usize::from(lines), usize::from(width))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody is left to be told that the terminal is gone.
        write(LEAVE).ok();
        if let Some(before) = &self.before {
            tcsetattr(io::stdin(), OptionalActions::Now, before).ok();
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
