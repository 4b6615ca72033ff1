//! The cookies that browsers get from us, and what of them comes back.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

/// The cookie of a session.
pub(super) const SESSION: &str = "qwen_image_worker_session";
/// The cookie of a visitor's mark.
pub(super) const VISITOR: &str = "qwen_image_worker_visitor";
/// What a browser takes before the name of a cookie for https from this host alone: no other name below the same domain can
/// set it, and so push ours out (RFC 6265bis, section 4.1.3.2).
const OWN_HOST: &str = "__Host-";
/// As many of one name are looked at: a browser sends several where they were set for several folders or domains.
const MOST_OF_A_NAME: usize = 4;
/// The answer that sets a cookie is nobody else's.
const NOT_KEPT: HeaderValue = HeaderValue::from_static("private, no-store");

/// Which requests of other sites a browser sends a cookie with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SameSite {
    /// None.
    Strict,
    /// Those by which a person gets to a page of ours, as by a link.
    Lax,
}

/// The values of the cookies of this name, those first that nobody else can have set.
pub(super) fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let of = move |prefix: &'static str| {
        headers
            .get_all(header::COOKIE)
            .iter()
            .flat_map(|cookies| cookies.as_bytes().split(|&byte| byte == b';'))
            .filter_map(move |cookie| cookie.trim_ascii().strip_prefix(prefix.as_bytes()))
            .filter_map(move |cookie| std::str::from_utf8(value_of(cookie, name)?).ok())
            .take(MOST_OF_A_NAME)
    };
    of(OWN_HOST).chain(of(""))
}

fn value_of<'a>(cookie: &'a [u8], name: &str) -> Option<&'a [u8]> {
    cookie.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// Takes our cookies out of a request that is passed on: ComfyUI and its node packs have no use for them, and could do with
/// a session what its owner may.
pub(in crate::http) fn strip(headers: &mut HeaderMap) {
    let is_ours = |cookie: &[u8]| {
        let cookie = cookie.strip_prefix(OWN_HOST.as_bytes()).unwrap_or(cookie);
        [SESSION, VISITOR].iter().any(|name| value_of(cookie, name).is_some())
    };
    let mut others: Vec<&[u8]> = Vec::new();
    for cookies in headers.get_all(header::COOKIE) {
        let cookies = cookies.as_bytes().split(|&byte| byte == b';');
        others.extend(
            cookies
                .map(<[u8]>::trim_ascii)
                .filter(|cookie| !cookie.is_empty() && !is_ours(cookie)),
        );
    }
    // Parts of what was a header's value are one too.
    let others = HeaderValue::from_bytes(&others.join(&b"; "[..])).ok();
    match others.filter(|others| !others.is_empty()) {
        Some(others) => headers.insert(header::COOKIE, others),
        None => headers.remove(header::COOKIE),
    };
}

/// Sets a cookie for so long; for no time: takes it away. No script of a page can read it. The name and the value are plain.
pub(super) fn set(
    response: &mut Response,
    name: &str,
    value: &str,
    lasts: Duration,
    same_site: SameSite,
    secure: bool,
) {
    let seconds = lasts.as_secs();
    let (prefix, secure) = if secure { (OWN_HOST, "; Secure") } else { ("", "") };
    let cookie = format!("{prefix}{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite={same_site:?}{secure}");
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        let headers = response.headers_mut();
        headers.append(header::SET_COOKIE, cookie);
        // Else something on the way might keep it with the answer, and hand it to others.
        headers.insert(header::CACHE_CONTROL, NOT_KEPT);
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    fn headers(cookies: &[&[u8]]) -> HeaderMap {
        let cookies = cookies
            .iter()
            .map(|cookies| (header::COOKIE, HeaderValue::from_bytes(cookies).unwrap()));
        cookies.collect()
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let found =
            |cookies: &[&[u8]]| -> Vec<String> { values(&headers(cookies), SESSION).map(str::to_owned).collect() };
        assert_eq!(found(&[b"a=1; qwen_image_worker_session=x=y;b=2"]), ["x=y"]);
        assert_eq!(
            found(&[b"qwen_image_worker_session=1", b"b=\xff; qwen_image_worker_session=2"]),
            ["1", "2"]
        );
        for none in [
            &b"qwen_image_worker_sessions=1"[..],
            b"xqwen_image_worker_session=1",
            b"qwen_image_worker_session",
            b"a=qwen_image_worker_session=1",
            b"qwen_image_worker_session=\xff",
            b"",
        ] {
            assert_eq!(found(&[none]), [""; 0]);
        }
        // A neighbour can set as many as it likes, but none like this.
        let pushed = "qwen_image_worker_session=evil; ".repeat(9) + "__Host-qwen_image_worker_session=ours";
        assert_eq!(found(&[pushed.as_bytes()])[..2], ["ours", "evil"]);
        let many = "qwen_image_worker_session=1; ".repeat(1_000);
        assert_eq!(found(&[many.as_bytes()]).len(), MOST_OF_A_NAME);
    }

    #[test]
    fn ours_are_not_passed_on_and_others_are() {
        let passed = |cookies: &[&[u8]]| {
            let mut headers = headers(cookies);
            strip(&mut headers);
            let left: Vec<Vec<u8>> = headers
                .get_all(header::COOKIE)
                .iter()
                .map(|left| left.as_bytes().to_vec())
                .collect();
            left
        };
        let ours = b"qwen_image_worker_session=1; qwen_image_worker_visitor=2";
        assert_eq!(passed(&[ours]), [b""; 0]);
        assert_eq!(passed(&[b"", ours]), [b""; 0]);
        let hosts = b"__Host-qwen_image_worker_session=1; __Host-qwen_image_worker_visitor=2; __Host-a=3";
        assert_eq!(passed(&[hosts]), [b"__Host-a=3"]);
        assert_eq!(
            passed(&[b"a=1;qwen_image_worker_session=1;b=\xff", ours, b"c"]),
            [b"a=1; b=\xff; c"]
        );
        assert_eq!(passed(&[b"qwen_image_worker_session=\xff; a=1"]), [b"a=1"]);
    }

    #[test]
    fn a_cookie_is_for_browsers_alone_and_for_a_time() {
        let mut response = "page".into_response();
        let week = Duration::from_hours(7 * 24);
        set(&mut response, SESSION, "abc", week, SameSite::Strict, true);
        set(&mut response, VISITOR, "def", Duration::ZERO, SameSite::Lax, false);
        let cookies: Vec<_> = response.headers().get_all(header::SET_COOKIE).iter().collect();
        assert_eq!(
            cookies,
            [
                "__Host-qwen_image_worker_session=abc; Path=/; Max-Age=604800; HttpOnly; SameSite=Strict; Secure",
                "qwen_image_worker_visitor=def; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
            ]
        );
        assert_eq!(response.headers()[header::CACHE_CONTROL], NOT_KEPT);
    }
}
