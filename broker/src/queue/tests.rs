//! Scripts: commands and what came of them, as text.
