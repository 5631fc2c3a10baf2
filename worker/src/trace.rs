//! W3C trace context: which trace a job belongs to, from its publisher on.

use std::fmt;
use std::str::FromStr;

/// The header of a message that names its trace.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// The header of a message with what tracing systems add to that.
pub(crate) const TRACESTATE: &str = "tracestate";

/// A place in a trace: the `traceparent` of <https://www.w3.org/TR/trace-context/>.
///
/// A message carries that of whoever sent it; a job has one of its own in the same trace, which the
/// messages that it sends carry on. The log lines of a job have both ids as fields of its span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; not 0.
    pub trace_id: u128,
    /// The span in it; not 0.
    pub span_id: u64,
    /// 1: the trace is being recorded.
    pub flags: u8,
}

impl TraceContext {
    /// The beginning of a new trace.
    #[must_use]
    pub fn root() -> Self {
        Self { trace_id: rand::random_range(1..=u128::MAX), span_id: random_span(), flags: 0 }
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span_id: random_span(), ..self }
    }
}

fn random_span() -> u64 {
    rand::random_range(1..=u64::MAX)
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// Not a trace context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent header")]
pub struct TraceContextError;

impl FromStr for TraceContext {
    type Err = TraceContextError;

    /// Reads a `traceparent`. Of a version to come it reads what it knows, as the standard asks.
    fn from_str(text: &str) -> Result<Self, TraceContextError> {
        let mut parts = text.split('-');
        let mut part = |length: usize| {
            let hex = |letter: u8| matches!(letter, b'0'..=b'9' | b'a'..=b'f');
            let part = parts.next().filter(|part| part.len() == length && part.bytes().all(hex));
            part.ok_or(TraceContextError)
        };
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let ends = parts.next().is_none();
        if version == "ff" || (version == "00" && !ends) {
            return Err(TraceContextError);
        }
        let context = Self {
            trace_id: u128::from_str_radix(trace, 16).map_err(|_| TraceContextError)?,
            span_id: u64::from_str_radix(span, 16).map_err(|_| TraceContextError)?,
            flags: u8::from_str_radix(flags, 16).map_err(|_| TraceContextError)?,
        };
        if context.trace_id == 0 || context.span_id == 0 {
            return Err(TraceContextError);
        }
        Ok(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_written_is_read() {
        let context: TraceContext = EXAMPLE.parse().expect("the standard's own example");
        assert_eq!(context.to_string(), EXAMPLE);
        let child = context.child();
        assert_eq!((child.trace_id, child.flags), (context.trace_id, 1));
        assert_ne!(child.span_id, context.span_id);
        let root = TraceContext::root();
        assert_eq!(root.to_string().parse(), Ok(root));
    }

    #[test]
    fn what_is_malformed_is_none() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(TraceContextError), "{text}");
        }
        let newer = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(newer.parse::<TraceContext>().is_ok());
    }
}
