//! Ids of messages as people type them, and what to tell where no message has one.

use qbroker::exit::Exit;
use qbroker_client::{Error, Reason, Refusal};

use crate::cli::failure::Failure;

/// How ids begin that the broker makes; the sequence follows.
const SERVER_ID_START: &str = "q.";

/// Checks that each id says by itself which message it means, where no queue is named.
///
/// # Errors
/// Where one does not: it names the flag that is missing, and how a sequence is written.
pub(super) fn check<'a>(
    ids: impl IntoIterator<Item = &'a String>,
    queue: &str,
) -> Result<(), Failure> {
    let mut ids = ids.into_iter();
    let chosen = ids.find(|id| queue.is_empty() && !id.starts_with(SERVER_ID_START));
    let Some(id) = chosen else { return Ok(()) };
    let is_sequence = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    let sequence = if is_sequence { id.as_str() } else { "40" };
    let why = format!(
        "{id}: an id that its publisher chose needs --queue QUEUE; a sequence is written \
         q.{sequence}"
    );
    Err(Failure::new(Exit::Usage, why))
}

/// What `message trace` can tell of what is done.
const OUTCOMES: &str = "finished messages are known only of a queue that had an outcome_retention \
                        then (`qbroker queue update QUEUE --outcome-retention 1h`)";

/// The failure of a trace of `id`.
pub(super) fn untraced(error: Error, id: &str, queue: &str) -> Failure {
    retold(error, |_| has_sequence(id).then(|| format!("{}; {OUTCOMES}", gone(id, queue))))
}

/// The failure of a trace of what has a correlation id.
pub(super) fn uncorrelated(error: Error, id: &str, queue: &str) -> Failure {
    let place = if queue.is_empty() { String::new() } else { format!(" in the queue {queue}") };
    let told = format!("no message with the correlation id \"{id}\" is found{place}; {OUTCOMES}");
    retold(error, |_| Some(told))
}

/// The failure of a look at `id`.
pub(super) fn unseen(error: Error, id: &str, queue: &str) -> Failure {
    retold(error, |refusal| Some(refused(refusal, id, queue)))
}

/// What is told of a refusal of `id` itself.
pub(super) fn refused(refusal: &Refusal, id: &str, queue: &str) -> String {
    match refusal.reason {
        // The broker would say to use what was used.
        Reason::MessageNotFound if has_sequence(id) => {
            format!("{}; `qbroker message trace {id}` may tell more", gone(id, queue))
        }
        _ => refusal.message.clone(),
    }
}

fn has_sequence(id: &str) -> bool {
    id.starts_with(SERVER_ID_START)
}

fn gone(id: &str, queue: &str) -> String {
    let elsewhere =
        if queue.is_empty() { String::new() } else { format!(", or it is not in {queue}") };
    format!("message \"{id}\" is not there: it is done, or never was{elsewhere}")
}

/// The failure with other words, where it is that a message was not found and there are any.
fn retold(error: Error, words: impl FnOnce(&Refusal) -> Option<String>) -> Failure {
    let Error::Refused(mut refusal) = error else { return error.into() };
    if refusal.reason == Reason::MessageNotFound {
        refusal.message = words(&refusal).unwrap_or(refusal.message);
    }
    Error::Refused(refusal).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_without_a_queue_is_told_the_flag_and_its_own_sequence() {
        let check =
            |id: &str, queue: &str| check(&[id.to_owned()], queue).map_err(|it| it.to_string());
        assert_eq!(check("q.40", ""), Ok(()));
        assert_eq!(check("own", "mail"), Ok(()));
        let refused = check("43", "").expect_err("a sequence");
        assert!(
            refused.contains("--queue QUEUE") && refused.ends_with("written q.43"),
            "{refused}"
        );
        let refused = check("own", "").expect_err("it is none");
        assert!(refused.starts_with("own: ") && refused.ends_with("written q.40"), "{refused}");
    }
}
