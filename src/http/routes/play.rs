//! `GET /play`: the page for people who want pictures, and its parts. All of it is in the binary, and nothing of it comes
//! from elsewhere.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, LazyLock};

use axum::extract::State as Shared;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use crate::dialect::schema::{Operation, Schema};
use crate::http::route::{PLAY, Route};
use crate::http::state::State;

/// `GET /play`.
pub(in crate::http) const PAGE: Route = Route::get(
    PLAY,
    "A page for people: a prompt and a template in, pictures out.",
    || Operation::default().reply(200, "The page.", HTML, Schema::text()),
    |_| routing::get(page),
);

/// What the page may load: its own parts, pictures that it has made or that this server sends, and what this server answers.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";
/// A browser asks each time whether it has changed, so that all parts are of one version.
const KEPT: &str = "no-cache";

const HTML: &str = "text/html";
const SCRIPT: &str = "text/javascript";
const STYLE: &str = "text/css";

/// A part of the page.
#[derive(Debug)]
pub(in crate::http) struct Part {
    /// Where it is.
    pub(in crate::http) path: &'static str,
    form: &'static str,
    text: &'static str,
}

macro_rules! parts {
    ($($name:literal: $form:expr),* $(,)?) => {
        &[$(Part {
            path: concat!("/play/", $name),
            form: $form,
            text: include_str!(concat!("../play/", $name)),
        }),*]
    };
}

/// The parts beside the page itself: each is a route, and none of the API.
pub(in crate::http) const PARTS: &[Part] = parts![
    "play.css": STYLE,
    "play.js": SCRIPT,
    "api.js": SCRIPT,
    "code.js": SCRIPT,
    "follow.js": SCRIPT,
    "form.js": SCRIPT,
    "mask.js": SCRIPT,
    "preact.js": SCRIPT,
    "snippets.js": SCRIPT,
    "stage.js": SCRIPT,
    "store.js": SCRIPT,
    "values.js": SCRIPT,
    "preact.LICENSE.txt": "text/plain",
];

/// The parts by their paths, packed when one is first asked for.
static PACKED: LazyLock<HashMap<&'static str, Packed>> =
    LazyLock::new(|| PARTS.iter().map(|part| (part.path, Packed::of(part.text))).collect());

/// A text as it goes over the wire.
#[derive(Debug)]
struct Packed {
    gzip: Bytes,
    digest: String,
}

impl Packed {
    fn of(text: &str) -> Self {
        let mut packing = GzEncoder::new(Vec::new(), Compression::best());
        // Nothing is written but memory.
        let gzip = packing.write_all(text.as_bytes()).and_then(|()| packing.finish());
        Self {
            gzip: gzip.unwrap_or_default().into(),
            digest: hex::encode(&Sha256::digest(text)[..16]),
        }
    }
}

impl Part {
    /// The part, for a request with these headers.
    pub(in crate::http) fn answer(&self, headers: &HeaderMap) -> Response {
        let text = Bytes::from_static(self.text.as_bytes());
        answer(headers, self.form, text, &PACKED[self.path])
    }
}

fn answer(headers: &HeaderMap, form: &str, text: Bytes, packed: &Packed) -> Response {
    let says = |name: HeaderName, word: &str| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| value.to_str().is_ok_and(|text| text.contains(word)))
    };
    let is_packed = !packed.gzip.is_empty() && says(header::ACCEPT_ENCODING, "gzip");
    let etag = format!("\"{}{}\"", packed.digest, if is_packed { "-gzip" } else { "" });
    let kept = [
        (header::ETAG, etag.as_str()),
        (header::CACHE_CONTROL, KEPT),
        (header::VARY, "accept-encoding"),
    ];
    if says(header::IF_NONE_MATCH, &etag) {
        return (StatusCode::NOT_MODIFIED, kept).into_response();
    }
    let form = format!("{form}; charset=utf-8");
    let about = [
        (header::CONTENT_TYPE, form.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    if is_packed {
        let encoding = [(header::CONTENT_ENCODING, "gzip")];
        return (kept, about, encoding, packed.gzip.clone()).into_response();
    }
    (kept, about, text).into_response()
}

/// The page, which knows whether ComfyUI's is beside it, and whether one logs in.
async fn page(Shared(state): Shared<Arc<State>>, headers: HeaderMap) -> Response {
    let text = page_text(state.page, state.api_keys.are_set());
    let packed = Packed::of(&text);
    answer(&headers, HTML, text.into(), &packed)
}

fn page_text(comfyui: bool, keys: bool) -> String {
    let marks = format!(
        "<html lang=\"en\"{}{}>",
        if comfyui { " data-comfyui" } else { "" },
        if keys { " data-keys" } else { "" }
    );
    include_str!("../play/play.html").replacen("<html lang=\"en\">", &marks, 1)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// What the page may weigh, in bytes, unpacked.
    const MOST: usize = 150 * 1024;

    #[test]
    fn the_page_weighs_little() {
        let parts: usize = PARTS.iter().map(|part| part.text.len()).sum();
        let all = parts + page_text(true, true).len();
        assert!(all < MOST, "{all} bytes");
        let packed: usize = PACKED.values().map(|packed| packed.gzip.len()).sum();
        assert!(packed < MOST / 2, "{packed} bytes");
    }

    #[test]
    fn every_part_that_is_named_is_served_and_nothing_comes_from_elsewhere() {
        let page = page_text(false, false);
        let texts = PARTS.iter().map(|part| (part.path, part.text));
        for (path, text) in texts.chain([(PLAY, page.as_str())]) {
            for (before, after) in [
                ("src=\"", '"'),
                ("href=\"play/", '"'),
                ("from './", '\''),
                ("import './", '\''),
            ] {
                for found in text.split(before).skip(1) {
                    let name = found.split(after).next().unwrap().trim_start_matches("play/");
                    if name.starts_with('$') {
                        continue;
                    }
                    let served = format!("{PLAY}/{name}");
                    assert!(PARTS.iter().any(|part| part.path == served), "{path} names {name}");
                }
            }
        }
        for part in PARTS.iter().filter(|part| part.form == SCRIPT || part.form == STYLE) {
            let name = part.path.trim_start_matches("/play/");
            let named = [page.as_str()].into_iter().chain(PARTS.iter().map(|part| part.text));
            assert!(named.into_iter().any(|text| text.contains(name)), "{name} is of no use");
        }
        // Neither is there a script or a style within the page.
        assert!(
            !page.contains("style=") && !page.contains("<style") && !page.contains(" on"),
            "inline"
        );
        assert!(page.matches("<script").count() == page.matches("<script type=\"module\" src=").count());
    }

    #[test]
    fn a_part_is_sent_once_and_packed_where_that_is_taken() {
        let part = &PARTS[0];
        let plain = part.answer(&HeaderMap::new());
        assert_eq!(plain.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("deflate, gzip;q=0.9"));
        let packed = part.answer(&headers);
        assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
        assert_ne!(packed.headers()[header::ETAG], plain.headers()[header::ETAG]);
        headers.insert(header::IF_NONE_MATCH, packed.headers()[header::ETAG].clone());
        assert_eq!(part.answer(&headers).status(), StatusCode::NOT_MODIFIED);
    }

    #[test]
    fn values_become_requests_and_programs() {
        let test = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/play/tests.mjs");
        let ran = std::process::Command::new("node").arg(test).output();
        let ran = ran.expect("Node.js 18 or later; this installs it: sudo apt-get install -y nodejs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }

    #[test]
    fn the_page_knows_what_is_beside_it() {
        assert!(page_text(true, false).contains("<html lang=\"en\" data-comfyui>"));
        assert!(page_text(false, true).contains("<html lang=\"en\" data-keys>"));
    }
}
