//! Texts as parts of a URL's path.

use url::form_urlencoded::byte_serialize;

/// A text as one segment of a path: what could end the segment, or the path, is escaped.
pub fn segment(text: &str) -> String {
    // Written for forms: a space becomes a plus sign there, and a plus sign is escaped.
    byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_stays_one() {
        assert_eq!(segment("a-b_c.d"), "a-b_c.d");
        assert_eq!(segment("a/b?c#d e+f%ü"), "a%2Fb%3Fc%23d%20e%2Bf%25%C3%BC");
    }
}
