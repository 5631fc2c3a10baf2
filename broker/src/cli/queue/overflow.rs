//! What a full queue does, as a word.

use clap::ValueEnum;
use qbroker_client::Overflow;

/// What happens to a publish that its queue has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OverflowArg {
    /// It is refused.
    Reject,
    /// The oldest ready messages are deleted.
    DropOldest,
    /// The oldest ready messages are dead-lettered.
    DeadLetterOldest,
}

impl OverflowArg {
    pub(super) fn policy(self) -> Overflow {
        match self {
            Self::Reject => Overflow::RejectPublish,
            Self::DropOldest => Overflow::DropOldest,
            Self::DeadLetterOldest => Overflow::DeadLetterOldest,
        }
    }
}

/// The policy that a word names.
pub(in crate::cli) fn parse(word: &str) -> Result<Overflow, String> {
    let arg = OverflowArg::from_str(word, false);
    arg.map(OverflowArg::policy).map_err(|_| format!("\"{word}\" is no way to overflow"))
}

/// The word for it; none for what a newer broker has.
pub(in crate::cli) fn show(overflow: Overflow) -> Option<String> {
    let arg = OverflowArg::value_variants().iter().find(|arg| arg.policy() == overflow)?;
    Some(arg.to_possible_value()?.get_name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_by_the_word_that_sets_it() {
        assert_eq!(show(Overflow::RejectPublish).unwrap(), "reject");
        assert_eq!(show(Overflow::DeadLetterOldest).unwrap(), "dead-letter-oldest");
    }
}
