//! Looks for a history that breaks a promise, and makes it short.
//!
//! A history may end in a panic, which in a release build ends the process. So whether fewer steps
//! still break it is found by processes of their own.

use std::process::{Command, Stdio};

use super::choice;

/// Exit code of a history that broke a promise; a panic has another one that is not zero.
pub const BROKEN: i32 = 1;

/// Steps as they stand on a command line: `1-3,7`.
pub fn to_text(steps: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &step in steps {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == step => *last = step,
            _ => ranges.push((step, step)),
        }
    }
    let text = |(first, last): (usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.into_iter().map(text).collect::<Vec<_>>().join(",")
}

/// Undoes [`to_text`].
pub fn from_text(text: &str) -> Result<Vec<usize>, std::num::ParseIntError> {
    let mut steps = Vec::new();
    for range in text.split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        steps.extend(first.parse()?..=last.parse::<usize>()?);
    }
    Ok(steps)
}

/// Whether these steps of a seed's history break a promise, too.
fn is_broken(seed: u64, steps: &[usize]) -> bool {
    let Ok(program) = std::env::current_exe() else { return false };
    let mut command = Command::new(program);
    command.args(["--seed", &seed.to_string(), "--steps", &to_text(steps)]);
    let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    ended.is_ok_and(|status| !status.success())
}

/// Leaves out whatever is not needed to break the promise: halves first, single steps last.
pub fn shrink(seed: u64) -> Vec<usize> {
    let mut steps: Vec<usize> = (0..choice::steps(seed).len()).collect();
    let mut size = steps.len().div_ceil(2);
    while 0 < size {
        let mut from = 0;
        while from < steps.len() {
            let to = (from + size).min(steps.len());
            let fewer = [&steps[..from], &steps[to..]].concat();
            if is_broken(seed, &fewer) {
                steps = fewer;
            } else {
                from = to;
            }
        }
        size /= 2;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_read_as_they_were_written() {
        assert_eq!(to_text(&[0, 1, 2, 7, 9, 10]), "0-2,7,9-10");
        assert_eq!(from_text("0-2,7,9-10"), Ok(vec![0, 1, 2, 7, 9, 10]));
        assert_eq!(from_text(""), Ok(Vec::new()));
        assert!(from_text("1-x").is_err());
    }
}
