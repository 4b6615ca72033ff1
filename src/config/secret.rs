//! A string that does not show itself, and URLs without what is secret in them.

use std::fmt;

use url::Url;

/// A token or key. Prints as stars everywhere; [`Secret::reveal`] is the one way to its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one request that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The most bytes of a URL that are shown.
const LONGEST_URL: usize = 500;

/// The URL without what may be secret: user name, password, query and fragment; and cut, if it is very long.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Neither fails on a URL with a host; on one without there is nothing to hide.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    crate::echo::at_most(url.into(), LONGEST_URL)
}
