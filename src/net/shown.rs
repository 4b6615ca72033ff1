//! URLs and errors as logs may show them.

use std::error::Error;

pub use crate::config::shown;

/// An error with everything behind it: `a: b: c`.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
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
    fn secrets_are_left_out() {
        let url = "https://user:pass@hooks.example.com:8443/a/b?token=4711#part"
            .parse()
            .unwrap();
        assert_eq!(shown(&url), "https://hooks.example.com:8443/a/b");
    }
}
