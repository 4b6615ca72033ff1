//! What every outgoing connection shares, texts as parts of a URL's path, and the texts of manifests.

pub mod address;
pub mod dial;
pub mod guard;
pub(crate) mod manifest;
pub mod retry;

use url::form_urlencoded::byte_serialize;

/// A text as one segment of a path: what could end the segment, or the path, is escaped.
pub fn segment(text: &str) -> String {
    // Written for forms: a space becomes a plus sign there, and a plus sign is escaped.
    byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// What [`segment`] was given, from what it wrote; segments with slashes between them too.
pub fn unescaped(segments: &str) -> String {
    let mut pairs = url::form_urlencoded::parse(segments.as_bytes());
    pairs.next().map_or_else(String::new, |(text, _)| text.into_owned())
}

/// Servers of tests, on real sockets.
#[cfg(test)]
pub(crate) mod testing {
    use axum::Router;

    /// Serves the router on a free port until the test's runtime ends; gives its address, `http://127.0.0.1:PORT`.
    pub(crate) async fn serve(router: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_stays_one() {
        assert_eq!(segment("a-b_c.d"), "a-b_c.d");
        assert_eq!(segment("a/b?c#d e+f%ü"), "a%2Fb%3Fc%23d%20e%2Bf%25%C3%BC");
    }

    #[test]
    fn a_segment_is_read_back() {
        for text in ["a-b_c.d~*", "a b+c%20&d=e?f#g;ü", ""] {
            assert_eq!(unescaped(&segment(text)), text);
        }
        assert_eq!(unescaped("a%20b/c%3D"), "a b/c=");
    }
}
