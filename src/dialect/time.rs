//! Times as text.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};

/// A time in whole seconds, as RFC 3339 writes it: `2025-12-07T10:00:00Z`.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    // It fails for years that four digits cannot say.
    DateTime::from_secs(seconds)
        .fmt(DateTimeFormat::DateTime)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn seconds_are_whole() {
        let time = UNIX_EPOCH + Duration::from_millis(1_765_101_600_999);
        assert_eq!(rfc3339(time), "2025-12-07T10:00:00Z");
    }
}
