//! W3C Trace Context: the header by which a trace goes from one program to the next (<https://www.w3.org/TR/trace-context/>).

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// Its name.
pub const HEADER: &str = "traceparent";
/// `00-TRACE-SPAN-FLAGS`.
const LENGTH: usize = 55;

tokio::task_local! {
    /// What the work of this task belongs to.
    static CURRENT: String;
}

/// Reads a header: what is to be kept of it. What is wrong is none, as the standard has it. Of a version that is not known yet
/// the begin is read, which all have in common.
pub fn parse(text: &str) -> Option<String> {
    let text = text.trim();
    let (known, more) = text.split_at_checked(LENGTH)?;
    let is_hex = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let mut parts = known.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = [version, trace, span, flags].map(str::len);
    let is_whole = lengths == [2, 32, 16, 2] && [version, trace, span, flags].into_iter().all(is_hex);
    let is_version = match version {
        "00" => more.is_empty(),
        "ff" => false,
        _ => more.is_empty() || more.starts_with('-'),
    };
    let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    (is_whole && is_version && !is_zero(trace) && !is_zero(span)).then(|| format!("00-{trace}-{span}-{flags}"))
}

/// The span that a header names.
pub(super) fn context_of(text: &str) -> Option<SpanContext> {
    let parsed = parse(text)?;
    let mut parts = parsed.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE))
}

/// The header that names a span.
pub(super) fn written(span: &SpanContext) -> String {
    let flags = u8::from(span.is_sampled());
    format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id())
}

/// Does work that belongs to what this header names, which [`current`] gives meanwhile.
pub async fn within<T>(traceparent: Option<String>, work: impl Future<Output = T>) -> T {
    match traceparent {
        Some(traceparent) => CURRENT.scope(traceparent, work).await,
        None => work.await,
    }
}

/// Work for a task of its own, which belongs to what this one belongs to.
pub fn carried<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    within(current(), work)
}

/// What the work of this task belongs to, as a header.
pub fn current() -> Option<String> {
    CURRENT.try_with(String::clone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_the_standard_allows_is_read_and_nothing_else() {
        assert_eq!(parse(RIGHT).as_deref(), Some(RIGHT));
        assert_eq!(parse(&format!(" {RIGHT}\t")).as_deref(), Some(RIGHT));
        let newer = RIGHT.replacen("00", "cc", 1);
        assert_eq!(parse(&newer).as_deref(), Some(RIGHT));
        assert_eq!(parse(&format!("{newer}-what-comes-later")).as_deref(), Some(RIGHT));
        for wrong in [
            "",
            "00",
            &RIGHT.to_uppercase(),
            &RIGHT.replacen("00", "ff", 1),
            &RIGHT.replacen("00", "0x", 1),
            &format!("{RIGHT}-more"),
            &format!("{newer}more"),
            &RIGHT[..54],
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ä",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0ä1",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_span_is_written_as_it_is_read() {
        assert_eq!(written(&context_of(RIGHT).unwrap()), RIGHT);
        let unsampled = RIGHT.replace("-01", "-00");
        assert_eq!(written(&context_of(&unsampled).unwrap()), unsampled);
    }

    #[tokio::test]
    async fn work_knows_what_it_belongs_to_in_tasks_too() {
        assert_eq!(current(), None);
        let seen = within(Some(RIGHT.to_owned()), async {
            let task = tokio::spawn(carried(async { current() }));
            (current(), task.await.unwrap())
        });
        let right = Some(RIGHT.to_owned());
        assert_eq!(seen.await, (right.clone(), right));
        assert_eq!(within(None, async { current() }).await, None);
    }
}
