//! How the queues of a consumer share it, as flags.

use clap::Args;
use qbroker::exit::Exit;
use qbroker_client::QueueShare;

use crate::cli::failure::Failure;

/// Who comes first where several queues have messages. Without any of these they take turns.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ShareArgs {
    /// Serve the queues in the order named: while one has a message, those behind it wait.
    #[arg(long, conflicts_with = "weights")]
    strict: bool,
    /// Share by weight, in the order of the queues: 6,3,1 is six of ten messages for the first.
    #[arg(long, value_name = "N,N,...", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    weights: Vec<u32>,
    /// No more messages of a queue at once than this; may be repeated.
    #[arg(long = "queue-window", value_name = "QUEUE=N", value_parser = window)]
    windows: Vec<(String, u32)>,
}

impl ShareArgs {
    /// These queues with their shares.
    ///
    /// # Errors
    /// Where the flags do not fit the queues.
    pub(super) fn of(&self, queues: &[String]) -> Result<Vec<QueueShare>, Failure> {
        let wrong = |message: String| Err(Failure::new(Exit::Usage, message));
        if !self.weights.is_empty() && self.weights.len() != queues.len() {
            let (weights, queues) = (self.weights.len(), queues.len());
            return wrong(format!("--weights has {weights} weights for {queues} queues"));
        }
        let is_unknown = |(queue, _): &&(String, u32)| !queues.contains(queue);
        if let Some((queue, _)) = self.windows.iter().find(is_unknown) {
            return wrong(format!("--queue-window: {queue} is none of the queues"));
        }
        let share = |(place, queue): (usize, &String)| {
            let mut share = QueueShare::new(queue);
            if self.strict {
                share = share.rank(i32::try_from(place).unwrap_or(i32::MAX));
            }
            if let Some(weight) = self.weights.get(place) {
                share = share.weight(*weight);
            }
            match self.windows.iter().rev().find(|(of, _)| of == queue) {
                Some((_, window)) => share.window(*window),
                None => share,
            }
        };
        Ok(queues.iter().enumerate().map(share).collect())
    }
}

fn window(text: &str) -> Result<(String, u32), String> {
    let parsed = text.rsplit_once('=').and_then(|(queue, window)| {
        let window = window.parse().ok().filter(|window| (1..=100_000).contains(window))?;
        Some((queue.to_owned(), window))
    });
    parsed.ok_or_else(|| "must be QUEUE=N, with N from 1 to 100000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_must_fit_the_queues() {
        let queues = ["a".to_owned(), "b".to_owned()];
        let shares = ShareArgs { weights: vec![3, 1], ..ShareArgs::default() };
        let expected = [QueueShare::new("a").weight(3), QueueShare::new("b").weight(1)];
        assert_eq!(shares.of(&queues).unwrap(), expected);
        let strict =
            ShareArgs { strict: true, windows: vec![("b".to_owned(), 2)], ..ShareArgs::default() };
        let expected = [QueueShare::new("a"), QueueShare::new("b").rank(1).window(2)];
        assert_eq!(strict.of(&queues).unwrap(), expected);
        let few = ShareArgs { weights: vec![3], ..ShareArgs::default() };
        assert_eq!(few.of(&queues).unwrap_err().exit(), Exit::Usage);
        let other = ShareArgs { windows: vec![("c".to_owned(), 2)], ..ShareArgs::default() };
        assert_eq!(other.of(&queues).unwrap_err().exit(), Exit::Usage);
        assert!(window("a=0").is_err() && window("a").is_err());
    }
}
