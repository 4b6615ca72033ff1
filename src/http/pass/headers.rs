//! Which headers go on to ComfyUI, and which come back.

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::http::cookies;

/// What concerns one connection alone (RFC 9110, section 7.6.1).
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What is for us: ComfyUI answers 403 where it does not like `Origin` or `Sec-Fetch-Site`, which we have judged. To read a
/// body is to give the leave to send it that `Expect` asks for.
const OURS: &[&str] = &["authorization", "expect", "host", "origin", "x-hf-authorization"];

/// The headers of a request as ComfyUI gets them.
pub(super) fn onward(headers: &HeaderMap) -> HeaderMap {
    let mut kept = without_hops(headers);
    for name in OURS {
        kept.remove(*name);
    }
    let fetch: Vec<HeaderName> = kept
        .keys()
        .filter(|name| name.as_str().starts_with("sec-fetch-"))
        .cloned()
        .collect();
    for name in fetch {
        // What a picture is wanted for says nothing of who asks, and ComfyUI shows some only where an `<img>` does.
        if name != "sec-fetch-dest" {
            kept.remove(name);
        }
    }
    cookies::strip(&mut kept);
    kept
}

/// The headers of ComfyUI's answer as the client gets them. Who may read it is ours to say (CORS).
pub(super) fn back(headers: &HeaderMap, base: &Url) -> HeaderMap {
    let mut kept = without_hops(headers);
    let cors: Vec<HeaderName> = kept
        .keys()
        .filter(|name| name.as_str().starts_with("access-control-"))
        .cloned()
        .collect();
    for name in cors {
        kept.remove(name);
    }
    let inner = kept
        .get(header::LOCATION)
        .and_then(|location| inner(location.to_str().ok()?, base));
    if let Some(inner) = inner.and_then(|inner| HeaderValue::from_str(&inner).ok()) {
        kept.insert(header::LOCATION, inner);
    }
    kept
}

/// Where an address of ComfyUI's own leads for a client of ours, which knows neither its host nor the folder that it is in;
/// [`None`]: as it says.
fn inner(location: &str, base: &Url) -> Option<String> {
    let is_path = location.starts_with('/') && !location.starts_with("//");
    let path = if is_path {
        location.to_owned()
    } else {
        let location = Url::parse(location).ok()?;
        let is_inner = location.origin() == base.origin();
        is_inner.then(|| location[url::Position::BeforePath..].to_owned())?
    };
    let folder = base.path().trim_end_matches('/');
    let below = path.strip_prefix(folder);
    let below = below.filter(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
    // With more than one slash at its begin it would lead to another host.
    let below = below.unwrap_or(&path).trim_start_matches(['/', '\\']);
    Some(format!("/{below}"))
}

fn without_hops(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    // A connection may name more that is its own.
    let named = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    for name in named.flat_map(|names| names.split(',')) {
        if let Ok(name) = name.trim().parse::<HeaderName>() {
            kept.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        kept.remove(*name);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        pairs.collect()
    }

    #[test]
    fn what_is_ours_or_the_connections_goes_no_further() {
        let sent = headers(&[
            ("host", "example.com"),
            ("connection", "close, x-own"),
            ("x-own", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("origin", "http://example.com"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-dest", "image"),
            ("authorization", "Bearer k"),
            ("x-hf-authorization", "Bearer k"),
            ("cookie", "a=1; qwen_image_worker_session=s;b=2"),
            ("cookie", "qwen_image_worker_visitor=v"),
            ("range", "bytes=0-1"),
            ("if-none-match", "\"x\""),
            ("accept-encoding", "gzip, br"),
            ("content-length", "3"),
            ("comfy-user", "anna"),
        ]);
        let wanted = headers(&[
            ("sec-fetch-dest", "image"),
            ("cookie", "a=1; b=2"),
            ("range", "bytes=0-1"),
            ("if-none-match", "\"x\""),
            ("accept-encoding", "gzip, br"),
            ("content-length", "3"),
            ("comfy-user", "anna"),
        ]);
        assert_eq!(onward(&sent), wanted);
    }

    #[test]
    fn answers_come_back_without_what_comfyui_says_of_pages_and_of_itself() {
        let base: Url = "http://127.0.0.1:4711".parse().unwrap();
        let sent = headers(&[
            ("access-control-allow-origin", "*"),
            ("connection", "keep-alive"),
            ("keep-alive", "timeout=5"),
            ("location", "http://127.0.0.1:4711/a?b=c"),
            ("etag", "\"x\""),
        ]);
        assert_eq!(
            back(&sent, &base),
            headers(&[("location", "/a?b=c"), ("etag", "\"x\"")])
        );
        for elsewhere in ["/a", "https://example.com/a"] {
            let sent = headers(&[("location", elsewhere)]);
            assert_eq!(back(&sent, &base), sent);
        }
    }

    #[test]
    fn an_address_of_comfyuis_leads_to_us() {
        for (base, location, leads_to) in [
            ("http://a:1/comfy/", "http://a:1/comfy/x?y", "/x?y"),
            ("http://a:1/comfy/", "/comfy/x?y", "/x?y"),
            ("http://a:1/comfy", "/comfy", "/"),
            ("http://a:1/comfy", "/comfy?x", "/?x"),
            ("http://a:1/comfy", "/comfyui/x", "/comfyui/x"),
            ("http://a:1/comfy", "http://a:2/comfy/x", "http://a:2/comfy/x"),
            ("http://a:1/comfy", "//a:2/comfy/x", "//a:2/comfy/x"),
            ("http://a:1/comfy", "/comfy//a:2/x", "/a:2/x"),
            ("http://a:1/comfy", "x/y", "x/y"),
            ("http://a:1", "/comfy/x", "/comfy/x"),
        ] {
            let came = back(&headers(&[("location", location)]), &base.parse().unwrap());
            assert_eq!(came["location"], leads_to, "{base} {location}");
        }
    }
}
