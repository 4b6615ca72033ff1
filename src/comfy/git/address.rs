//! The address of a repository.

use std::fmt;

use url::Url;

use super::GitError;
use crate::comfy::install::star_passwords;
use crate::display::redacted;

/// An address that was looked at. Shown without user, password and query.
#[derive(Debug, Clone)]
pub(super) struct Address {
    text: String,
    pub(super) url: Url,
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, GitError> {
        let wrong = |reason: String| GitError::Address {
            repository: star_passwords(text),
            reason,
        };
        // It becomes a line of git's configuration.
        if text.contains(char::is_control) {
            return Err(wrong("there is a control character in it".to_owned()));
        }
        let url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https" | "file" | "ssh" | "git") {
            return Err(wrong(format!("{}:// is not taken", url.scheme())));
        }
        Ok(Self {
            text: text.to_owned(),
            url,
        })
    }

    /// As it was given, password and all.
    pub(super) fn secret(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_told_without_its_password() {
        for (text, reason) in [
            ("git@host:owner/name", "relative URL without a base"),
            ("ext::sh -c x", "ext:// is not taken"),
            ("https://a:s3cret@host/\nx", "control character"),
            ("/home/me/repository", "relative URL without a base"),
            ("ftp://a:s3cret@host/x", "ftp:// is not taken"),
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn an_address_is_shown_without_its_password_and_given_with_it() {
        let address = Address::parse("https://me:s3cret@host/a/b.git").unwrap();
        assert_eq!(address.to_string(), "https://host/a/b.git");
        assert_eq!(address.secret(), "https://me:s3cret@host/a/b.git");
    }
}
