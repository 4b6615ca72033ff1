//! Times as this API writes them.

use std::time::SystemTime;

use time::OffsetDateTime;

/// A time by RFC 3339, in UTC, to the microsecond: the SDKs refuse one that says no offset.
pub fn time(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.microsecond()
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_time_has_an_offset_and_microseconds() {
        let at = UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_042);
        assert_eq!(time(at), "2023-11-14T22:13:20.000042Z");
        assert_eq!(time(UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
    }
}
