//! What the members of a barrier brought, among the arguments of the job that it sends.

use bytes::Bytes;
use qbroker_client::BarrierMember;

use crate::draft;
use crate::failure::BoxError;
use crate::outgoing::{OutgoingJob, SendError};
use crate::overrides;

/// Puts the arguments where they stay: the payload becomes what the members brought.
///
/// # Errors
///
/// They are no text.
pub(crate) fn gather(job: &mut OutgoingJob) -> Result<(), SendError> {
    let payload = std::mem::take(&mut job.draft.payload);
    let arguments = String::from_utf8(payload).map_err(|_| {
        let source = "only arguments that are a text can wait for others".into();
        SendError::Encode { actor: job.actor().to_owned(), source }
    })?;
    job.set_header(overrides::ARGUMENTS, arguments);
    if let Some(name) = job.draft.fills.take() {
        job.set_header(overrides::FILLS, name);
    }
    "application/x-protobuf".clone_into(&mut job.draft.content_type);
    Ok(())
}

/// The payload that a completion's own would be, with the results of the members in it.
///
/// # Errors
///
/// It is not what a barrier publishes.
pub(crate) fn gathered(
    arguments: &str,
    fills: Option<&String>,
    payload: &Bytes,
) -> Result<String, BoxError> {
    let Some(name) = fills else { return Ok(arguments.to_owned()) };
    let mut members = BarrierMember::all_of(payload)?;
    // They are told in the order of their arrival.
    members.sort_by_key(|member| member.member_id.parse::<usize>().ok());
    let mut values = Vec::with_capacity(members.len());
    for member in &members {
        values.push(std::str::from_utf8(&member.value)?);
    }
    draft::fill(arguments, name, &format!("[{}]", values.join(",")))
}
