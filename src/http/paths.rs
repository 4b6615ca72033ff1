//! Paths as clients write them: with a slash too many, where a base address that ends with one is put before a path that
//! begins with one; with escapes that need not be; or to no route of ours.
//!
//! Each path has one spelling from here on: what is ours is found by it, and nothing else is passed on to ComfyUI.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tower::ServiceExt as _;

use super::edit_port::{EDIT, below};
use super::route::{PLAY, Route, without_star};
use super::{State, every_route};
use crate::error::JobError;

/// The most routes that an error names.
const NAMED: usize = 3;
/// How alike a path and that of a route must be.
const ALIKE: f64 = 0.85;

/// What is wrong with a request's path, among its extensions.
#[derive(Debug, Clone, Copy)]
struct BadPath(&'static str);

/// Marks a request whose path was written with a slash at its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndsWithSlash;

/// The same routes, under paths with slashes too many and with needless escapes as well.
pub(super) fn lenient(routes: Router, state: &Arc<State>) -> Router {
    let state = Arc::clone(state);
    Router::new().fallback(async move |mut request: Request| -> Response {
        match unescaped(request.uri()) {
            Ok(None) => {}
            Ok(Some(uri)) => *request.uri_mut() = uri,
            Err(what) => {
                request.extensions_mut().insert(BadPath(what));
            }
        }
        if request.uri().path().ends_with('/') {
            request.extensions_mut().insert(EndsWithSlash);
        }
        // A health check may be configured to have one.
        if request.uri().path() != state.http.health_path
            && let Some(uri) = without_spare_slashes(request.uri())
        {
            // The page finds its parts beside it.
            if uri.path() == PLAY && request.uri().path().ends_with('/') {
                return (StatusCode::SEE_OTHER, [(header::LOCATION, "../play")]).into_response();
            }
            *request.uri_mut() = uri;
        }
        let answer: Result<Response, Infallible> = routes.oneshot(request).await;
        let Ok(answer) = answer;
        answer
    })
}

/// Answers 400 to a request whose path can be taken for more than one.
pub(super) async fn refuse_unclear(request: Request, next: Next) -> Response {
    match request.extensions().get() {
        None => next.run(request).await,
        Some(BadPath(what)) => JobError::invalid(format!("The path of the request {what}"))
            .hint("Write it as the route has it; in a name, percent-encode what is no letter, digit, `-`, `.`, `_` or `~`.")
            .into_response(),
    }
}

/// The address with the escapes taken out of its path that stand for letters, digits, `-`, `.`, `_` and `~`, which mean the
/// same (RFC 3986, section 6.2.2.2); [`None`]: it has none. All others stay as they are: `%2F` is no slash. Fails with what
/// is wrong where servers differ in what they make of a path.
fn unescaped(uri: &Uri) -> Result<Option<Uri>, &'static str> {
    let path = without_needless_escapes(uri.path())?;
    if path.contains('\\') {
        return Err("has a backslash");
    }
    if path.split('/').any(|part| matches!(part, "." | "..")) {
        return Err("has `.` or `..` in the place of a name");
    }
    let Cow::Owned(path) = path else { return Ok(None) };
    Ok(with_path(uri, path))
}

fn without_needless_escapes(path: &str) -> Result<Cow<'_, str>, &'static str> {
    let mut parts = path.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..2)
            .filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        match byte {
            None => return Err("has a `%` without two hexadecimal digits after it"),
            Some(byte) if byte.is_ascii_control() => return Err("has a control character"),
            Some(b'\\') => return Err("has a backslash"),
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                plain.push(char::from(byte));
                plain.push_str(&part[2..]);
            }
            Some(_) => {
                plain.push('%');
                plain.push_str(part);
            }
        }
    }
    Ok(if plain == path { path.into() } else { plain.into() })
}

/// The address with each run of slashes in its path as one, and none at its end; [`None`]: it is so.
fn without_spare_slashes(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if path == "/" || !(path.ends_with('/') || path.contains("//")) {
        return None;
    }
    let mut plain = String::with_capacity(path.len());
    for part in path.split('/').filter(|part| !part.is_empty()) {
        plain.push('/');
        plain.push_str(part);
    }
    if plain.is_empty() {
        plain.push('/');
    }
    with_path(uri, plain)
}

/// The same address with another path.
fn with_path(uri: &Uri, mut path: String) -> Option<Uri> {
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// The routes that come closest to a path, as errors name them: `POST /v1/images/generations`. `own_port`: on the port of
/// the Edit Plus API.
pub(super) fn closest(path: &str, own_port: bool) -> Vec<String> {
    // Nothing that long is like any.
    if path.len() > 200 {
        return Vec::new();
    }
    let asked: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let asked = match asked.as_slice() {
        ["v2", _endpoint, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    let routes = every_route().filter(|route| !own_port || route.path.starts_with(EDIT));
    let mut alike: Vec<(f64, &Route, &str)> = routes
        .map(|route| {
            let shown = if own_port { below(route.path) } else { route.path };
            (likeness(asked, shown), route, shown)
        })
        .filter(|(likeness, ..)| *likeness > ALIKE)
        .collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0));
    let named = alike.into_iter().take(NAMED);
    named
        .map(|(_, route, shown)| format!("{} {}", route.methods.join(", "), without_star(shown)))
        .collect()
}

/// How alike a path and a route's are, from 0 to 1; 1 where one of them is the end of the other, since addresses are put
/// together from two pieces.
fn likeness(asked: &[&str], route: &str) -> f64 {
    let parts: Vec<&str> = route.split('/').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() || asked.is_empty() {
        return 0.0;
    }
    let fits = |asked: &[&str], parts: &[&str]| {
        asked
            .iter()
            .zip(parts)
            .all(|(asked, part)| part.starts_with('{') || asked == part)
    };
    let (longer, shorter) = (asked.len().max(parts.len()), asked.len().min(parts.len()));
    let ends = if asked.len() == longer {
        fits(&asked[longer - shorter..], &parts)
    } else {
        fits(asked, &parts[longer - shorter..])
    };
    // One word in common is none, where it stands for anything.
    if ends && !parts[parts.len() - shorter].starts_with('{') {
        return 1.0;
    }
    // What stands for anything is written as it was asked for.
    let filled = parts.iter().enumerate().map(|(index, part)| {
        let given = asked.get(index).filter(|_| part.starts_with('{'));
        given.unwrap_or(part)
    });
    strsim::jaro_winkler(&asked.join("/"), &filled.copied().collect::<Vec<_>>().join("/"))
}

/// What an error says of a path that no route has.
pub(super) fn hint(path: &str, own_port: bool) -> String {
    let all = if own_port {
        "`GET /docs` of the main port shows all of them, below /edit."
    } else {
        "GET /docs shows all routes."
    };
    match closest(path, own_port).as_slice() {
        [] => all.to_owned(),
        closest => format!("Did you mean {}? {all}", closest.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_too_many_are_taken_out() {
        for (written, plain) in [
            ("/v1//images/generations", "/v1/images/generations"),
            ("/run/", "/run"),
            ("//run?a=//b/", "/run?a=//b/"),
            ("///", "/"),
            ("/edit/", "/edit"),
            ("/files/1/0/a%2F%2Fb.png/", "/files/1/0/a%2F%2Fb.png"),
            ("http://127.0.0.1:8188/v1//models/", "http://127.0.0.1:8188/v1/models"),
        ] {
            assert_eq!(without_spare_slashes(&written.parse().unwrap()).unwrap(), plain);
        }
        for plain in ["/", "/run", "/?a=//", "*", "http://127.0.0.1:8188"] {
            assert_eq!(without_spare_slashes(&plain.parse().unwrap()), None, "{plain}");
        }
    }

    #[test]
    fn a_path_has_one_spelling() {
        for (written, plain) in [
            ("/%70rompt", "/prompt"),
            ("/%61%70i/%70rompt?a=%70", "/api/prompt?a=%70"),
            ("/a%2Db%2e%5F%7Ec", "/a-b._~c"),
        ] {
            assert_eq!(
                unescaped(&written.parse().unwrap()).unwrap().unwrap(),
                plain,
                "{written}"
            );
        }
        for same in [
            "/prompt",
            "/",
            "*",
            "/userdata/workflows%2Fx.json",
            "/a%20b",
            "/%2570rompt",
            "/a..b/..c",
            "/%2F..",
            "/%C3%A4",
        ] {
            assert_eq!(unescaped(&same.parse().unwrap()), Ok(None), "{same}");
        }
        for wrong in [
            "/a/../prompt",
            "/a/%2e%2e/prompt",
            "/a/.%2E/prompt",
            "/./prompt",
            "/a/..",
            "/a%00",
            "/a%0Ab",
            "/a%7f",
            "/a%5Cb",
            "/%",
            "/%7",
            "/%zz",
            "/%%37%30rompt",
            "/%2%30",
            "/%+70",
        ] {
            assert!(unescaped(&wrong.parse().unwrap()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_path_is_told_what_comes_closest() {
        for (path, first) in [
            ("/v1/image/generations", "POST /v1/images/generations"),
            ("/images/generations", "POST /v1/images/generations"),
            ("/v1/v1/images/edits", "POST /v1/images/edits"),
            ("/api/run", "POST /run"),
            ("/v2/abc/runsnc", "POST /runsync"),
            ("/statu/4711", "GET, POST /status/{id}"),
            ("/generate", "POST /api/v1/qwen/generate"),
        ] {
            assert_eq!(closest(path, false).first().map(String::as_str), Some(first), "{path}");
        }
        assert_eq!(closest("/edit-images", true), ["POST /edit-image"]);
        let long = format!("/{}", "x".repeat(50_000));
        for nothing in ["/wp-login.php", "/favicon.ico", "/", long.as_str()] {
            assert_eq!(closest(nothing, false), Vec::<String>::new(), "{nothing}");
        }
        for path in ["/v1/image", "/a", "/queue/data"] {
            assert!(hint(path, false).len() < 300, "{}", hint(path, false));
        }
    }
}
