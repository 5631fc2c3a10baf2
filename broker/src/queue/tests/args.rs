//! The words of a script's command.

use std::collections::VecDeque;
use std::str::FromStr;

/// Words in order, and those of the form `key=value`; what nobody asked for is a mistake.
pub(super) struct Args<'a> {
    words: VecDeque<&'a str>,
    keys: Vec<(&'a str, &'a str)>,
}

impl<'a> Args<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let (mut words, mut keys) = (VecDeque::new(), Vec::new());
        for word in text.split_whitespace() {
            match word.split_once('=').filter(|(key, _)| !key.contains(':')) {
                Some(pair) => keys.push(pair),
                None => words.push_back(word),
            }
        }
        Self { words, keys }
    }

    /// The next word.
    pub(super) fn word(&mut self) -> &'a str {
        self.words.pop_front().expect("a word is missing")
    }

    /// All the words that are left.
    pub(super) fn rest(&mut self) -> Vec<&'a str> {
        self.words.drain(..).collect()
    }

    /// Names parted by commas.
    pub(super) fn names(&mut self) -> Vec<String> {
        self.word().split(',').map(str::to_owned).collect()
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        let place = self.words.iter().position(|word| *word == name);
        place.is_some_and(|place| self.words.remove(place).is_some())
    }

    pub(super) fn key(&mut self, name: &str) -> Option<&'a str> {
        let place = self.keys.iter().position(|(key, _)| *key == name)?;
        Some(self.keys.remove(place).1)
    }

    pub(super) fn number<T: FromStr>(&mut self, name: &str) -> Option<T> {
        self.key(name).map(number)
    }

    pub(super) fn time(&mut self, name: &str) -> Option<u64> {
        self.key(name).map(duration_ms)
    }

    /// Keys that are left, such as labels.
    pub(super) fn keys_with<'p>(&mut self, prefix: &'p str) -> Vec<(&'a str, &'a str)>
    where
        'a: 'p,
    {
        let (with, without) = self.keys.iter().partition(|(key, _)| key.starts_with(prefix));
        self.keys = without;
        with
    }

    pub(super) fn done(&self) {
        assert!(self.words.is_empty(), "words that mean nothing: {:?}", self.words);
        assert!(self.keys.is_empty(), "keys that mean nothing: {:?}", self.keys);
    }
}

pub(super) fn number<T: FromStr>(text: &str) -> T {
    text.parse().ok().unwrap_or_else(|| panic!("{text} is no number"))
}

/// Reads `10ms`, `5s`, `2m`, `1h`, `7d`.
pub(super) fn duration_ms(text: &str) -> u64 {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        unit => panic!("{text}: {unit} is no unit of time"),
    };
    number::<u64>(digits) * unit
}
