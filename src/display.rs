//! Figures, URLs and errors as people may read them.

use std::error::Error;
use std::fmt;

use url::Url;

/// Bytes in a unit in which they are easily read, of powers of ten: `812 bytes`, `123 kB`, `12.3 MB`, `31.7 GB`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} bytes", self.0),
            1_000..1_000_000 => write!(f, "{} kB", self.0.div_ceil(1_000)),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            _ => write!(f, "{:.1} GB", bytes / 1e9),
        }
    }
}

/// The most bytes of a URL that are shown.
const LONGEST_URL: usize = 500;

/// The URL without what may be secret: user name, password, query and fragment; and cut, if it is very long.
pub(crate) fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    // Neither fails on a URL with a host; on one without there is nothing to hide.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    crate::echo::at_most(url.into(), LONGEST_URL)
}

/// An error with everything behind it: `a: b: c`.
pub(crate) fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        // Some errors repeat what is behind them.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_at_a_glance() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1_001, "2 kB"),
            (12_340_000, "12.3 MB"),
            (31_720_000_000, "31.7 GB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn secrets_of_a_url_are_left_out() {
        let url = "https://user:pass@hooks.example.com:8443/a/b?token=4711#part"
            .parse()
            .unwrap();
        assert_eq!(redacted(&url), "https://hooks.example.com:8443/a/b");
    }

    #[test]
    fn causes_are_named_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Outer(&'static str, #[source] std::io::Error);
        let cause = || std::io::Error::other("the disk is gone");
        assert_eq!(error_chain(&Outer("no file", cause())), "no file: the disk is gone");
        assert_eq!(error_chain(&Outer("the disk is gone", cause())), "the disk is gone");
    }
}
