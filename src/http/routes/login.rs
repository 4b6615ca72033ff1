//! `GET /login`, `POST /login` and `POST /logout`: how people get in where keys are asked for. A browser cannot be told to send
//! one with all that a page loads; with a key it gets a session ([`sessions`](crate::http::sessions)), in a cookie.
//!
//! The page is whole in itself, and works without a script.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use url::{Position, Url};
use utoipa::ToSchema;

use crate::dialect::schema::{JSON, Operation, Schema};
use crate::error::JobError;
use crate::http::auth;
use crate::http::cookies::{self, SESSION, SameSite};
use crate::http::route::{self, Route};
use crate::http::sessions::LASTS;
use crate::http::state::State;
use crate::http::visitors::came_by_https;

/// `/login`.
const LOGIN: Route = Route::new(
    &["GET", "POST"],
    route::LOGIN,
    "Where people log in with a key of `API_KEY`: a page; and what its form is sent to, which sets the cookie of a session.",
    || {
        let form = || Schema::object().needs("key", Schema::text().means("One of the keys of API_KEY."));
        let next = Schema::text().means("The path here to go to then, seen from the root of this server.");
        let example = serde_json::json!({"key": "0123456789abcdef"});
        Operation::default()
            .query("next", next.clone())
            .body(FORM, form().takes("next", next).with("examples", vec![example.clone()]))
            .body(JSON, form().with("examples", vec![example]))
            .reply(200, "The page.", HTML, Schema::text())
            .reply(
                200,
                "The session, where the key came as JSON.",
                JSON,
                Schema::of::<Opened>(),
            )
            .empty_reply(303, "The browser is in; or no key is asked for.")
            .reply(401, "The page, with what was wrong.", HTML, Schema::text())
            .reply(401, "What was wrong.", JSON, Schema::object())
    },
    |_| routing::get(page).post(log_in),
);

/// `/logout`.
const LOGOUT: Route = Route::post(
    route::LOGOUT,
    "Ends the session of a browser.",
    || Operation::default().empty_reply(303, "It is over; the way to `/login`."),
    |_| routing::post(log_out),
);

/// What is served for logging in.
pub(in crate::http) const ROUTES: &[Route] = &[LOGIN, LOGOUT];

const FORM: &str = "application/x-www-form-urlencoded";
const HTML: &str = "text/html";
/// The largest body, in bytes: there is a key in it.
const MOST_BYTES: usize = 1024 * 1024;
/// How much longer the answer to a wrong key takes.
const WRONG_TAKES: Duration = Duration::from_millis(300);
/// The longest path that is gone to after the login.
const LONGEST_NEXT: usize = 4_096;
/// The parameter that says that the page was asked for once more, by itself.
const AGAIN: &str = "again";
const WRONG_KEY: &str = "That is none of the keys of this worker.";

/// The page around what changes.
const PAGE: &str = include_str!("login.html");

/// What the page may load: nothing; and where its forms may lead: here.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = PAGE
        .split_once("<style>")
        .and_then(|(_, rest)| rest.split_once("</style>"));
    let hash = STANDARD.encode(Sha256::digest(style.map_or("", |(style, _)| style)));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
});

/// A session that was opened.
#[derive(Serialize, ToSchema)]
struct Opened {
    /// For how many seconds it lasts after its last use.
    expires_in: u64,
}

#[derive(Deserialize)]
struct Sent {
    key: String,
    next: Option<String>,
}

/// `GET /login`.
async fn page(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let up = auth::to_root(&request);
    if !up.is_empty() {
        // The page finds all that it leads to beside it.
        let query = request
            .uri()
            .query()
            .map_or_else(String::new, |query| format!("?{query}"));
        return Redirect::to(&format!("{up}{}{query}", &route::LOGIN[1..])).into_response();
    }
    if !state.api_keys.are_set() {
        return to("", None);
    }
    let parameter = |wanted| {
        let mut query = url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
        query
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.into_owned())
    };
    let site = request.headers().get("sec-fetch-site");
    let is_again = parameter(AGAIN).is_some();
    // What leads here says where to go then. Another site's page may say so too, and what ComfyUI and its packs do on GET is
    // nothing that it may have done.
    let is_trusted = !is_again && site.is_some_and(|site| site == "same-origin" || site == "none");
    let next = parameter("next").and_then(|next| local(&next));
    let next = next.map(|next| {
        if is_trusted || is_a_page(&next) {
            next
        } else {
            route::ROOT.to_owned()
        }
    });
    if auth::session(&state, &request).is_some() {
        return match next {
            Some(next) => to("", Some(&next)),
            None => shown(StatusCode::OK, "Logged in", INSIDE, ""),
        };
    }
    // By a link on another site's page a browser comes without its session. What the page asks for itself, it brings it with.
    // Under an address that it does not trust, by http, it does not say where it comes from.
    let may_come_from_elsewhere = site.is_none_or(|site| site == "cross-site");
    if may_come_from_elsewhere && !is_again {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair(AGAIN, "1");
        if let Some(next) = &next {
            query.append_pair("next", next);
        }
        // Relative, as the page's forms are, since a proxy may serve us below a folder.
        let again = format!("0; url=login?{}", query.finish());
        let head = format!("<meta http-equiv=\"refresh\" content=\"{}\">", escaped(&again));
        return shown(StatusCode::OK, "Log in", &form(next.as_deref(), None), &head);
    }
    shown(StatusCode::OK, "Log in", &form(next.as_deref(), None), "")
}

/// `POST /login`.
async fn log_in(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, JobError> {
    let up = auth::to_root(&request);
    if !state.api_keys.are_set() {
        return Ok(to(&up, None));
    }
    let (parts, body) = request.into_parts();
    let body = state.bodies.read_at_most(MOST_BYTES, &parts.headers, body).await?;
    let is_json = media_type(&parts.headers).is_some_and(|kind| kind.eq_ignore_ascii_case(JSON));
    let sent = if is_json {
        json(&body.content)?
    } else {
        filled_in(&parts.headers, &body.content)?
    };
    let next = sent.next.as_deref().and_then(local);
    // Guessers keep each other waiting, and nobody who has a key.
    let Some(key) = state.api_keys.find(sent.key.trim().as_bytes()) else {
        let _turn = state.sessions.turn().await?;
        tokio::time::sleep(WRONG_TAKES).await;
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return Ok(if is_json {
            let error = JobError::invalid(WRONG_KEY).hint("Send one of the keys of API_KEY.");
            (StatusCode::UNAUTHORIZED, challenge, error).into_response()
        } else {
            let form = form(next.as_deref(), Some(WRONG_KEY));
            (challenge, shown(StatusCode::UNAUTHORIZED, "Wrong key", &form, "")).into_response()
        });
    };
    let secure = came_by_https(&state.http, &parts.headers);
    let session = state.sessions.begin(key, secure).await?;
    let mut response = if is_json {
        let expires_in = LASTS.as_secs();
        Json(Opened { expires_in }).into_response()
    } else {
        to(&up, next.as_deref())
    };
    cookies::set(&mut response, SESSION, &session, LASTS, SameSite::Strict, secure);
    Ok(response)
}

/// `POST /logout`.
async fn log_out(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let login = format!("{}{}", auth::to_root(&request), &route::LOGIN[1..]);
    let mut response = Redirect::to(&login).into_response();
    // None, where another page asks for it, of the same site: its cookies do not count, and are not touched.
    if let Some((text, found)) = auth::session(&state, &request) {
        state.sessions.end(&text).await;
        cookies::set(
            &mut response,
            SESSION,
            "",
            Duration::ZERO,
            SameSite::Strict,
            found.secure,
        );
    }
    response
}

/// Leads on to a path that is [`local`], else to the page. `up`: the way to the root, as a proxy may serve us below a folder.
fn to(up: &str, next: Option<&str>) -> Response {
    let next = next.unwrap_or(route::ROOT);
    let up = if up.is_empty() { "./" } else { up };
    Redirect::to(&format!("{up}{}", next.trim_start_matches('/'))).into_response()
}

/// Whether a path is that of a page, which does nothing by being opened.
fn is_a_page(next: &str) -> bool {
    let path = next.split(['?', '#']).next().unwrap_or_default();
    [route::ROOT, route::PLAY, route::DOCS].contains(&path)
}

/// The path to go to, if it is one here: whatever else a browser might take it for would lead people who have just logged in
/// to somebody else's page.
fn local(next: &str) -> Option<String> {
    let here = Url::parse("http://worker.invalid/").ok()?;
    if next.len() > LONGEST_NEXT || !next.starts_with('/') || next.contains(|c: char| c == '\\' || c.is_control()) {
        return None;
    }
    let there = here.join(next).ok().filter(|there| there.origin() == here.origin())?;
    let path = &there[Position::BeforePath..];
    // What `/x/..//host` comes to; and no way back here.
    let leads_on = !path.starts_with("//") && ![route::LOGIN, route::LOGOUT].contains(&there.path());
    leads_on.then(|| path.to_owned())
}

fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(str::trim)
}

fn json(body: &Bytes) -> Result<Sent, JobError> {
    serde_json::from_slice(body).map_err(|_| no_key())
}

fn filled_in(headers: &HeaderMap, body: &Bytes) -> Result<Sent, JobError> {
    let is_form = media_type(headers).is_none_or(|kind| kind.eq_ignore_ascii_case(FORM));
    let fields = || url::form_urlencoded::parse(body);
    let field = |wanted| {
        fields()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.into_owned())
    };
    let key = field("key").filter(|_| is_form).ok_or_else(no_key)?;
    let next = field("next");
    Ok(Sent { key, next })
}

fn no_key() -> JobError {
    JobError::invalid("The request holds no key").hint("Send a form with the field `key`, or JSON: {\"key\": \"…\"}.")
}

/// What a browser that is in sees.
const INSIDE: &str = r#"<h1>You are logged in</h1>
<p><a href="./">The page</a>, <a href="play">pictures from a prompt</a>, <a href="docs">the APIs</a></p>
<form method="post" action="logout"><button>Log out</button></form>"#;

fn form(next: Option<&str>, wrong: Option<&str>) -> String {
    let next = next.map_or_else(String::new, |next| {
        format!("<input type=\"hidden\" name=\"next\" value=\"{}\">\n", escaped(next))
    });
    let (message, described, invalid) = match wrong {
        Some(wrong) => (
            format!(
                "<p id=\"wrong\" class=\"wrong\" role=\"alert\">{}</p>\n",
                escaped(wrong)
            ),
            "wrong what",
            " aria-invalid=\"true\"",
        ),
        None => (String::new(), "what", ""),
    };
    format!(
        r#"<h1>Log in</h1>
<form method="post">
{message}{next}<label for="key">Key</label>
<input id="key" name="key" type="password" autocomplete="current-password" autocapitalize="none" spellcheck="false" required autofocus aria-describedby="{described}"{invalid}>
<p id="what">One of the keys that whoever runs this worker has set as <code>API_KEY</code>. Ask them for one. Programs send the same key as <code>Authorization: Bearer KEY</code>; <a href="docs">the APIs</a> are open to read.</p>
<button>Log in</button>
</form>
<p>This browser stays logged in for seven days after its last visit.</p>"#
    )
}

fn shown(status: StatusCode, title: &str, main: &str, head: &str) -> Response {
    let page = PAGE
        .replace("<!--title-->", title)
        .replace("<!--head-->", head)
        .replace("<!--main-->", main);
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Not less: without it, a form comes from `null`.
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("x-frame-options"), "DENY"),
    ];
    (status, headers, Html(page)).into_response()
}

/// A text as it stands in HTML, in quotes or not.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_leads_nowhere_else() {
        for (next, leads) in [
            ("/", "/"),
            ("/play?a=b&c=%2F%2Fd#e", "/play?a=b&c=%2F%2Fd#e"),
            ("/a/../b", "/b"),
            ("/ü?<\"", "/%C3%BC?%3C%22"),
            ("/@example.com", "/@example.com"),
            ("/w/play", "/w/play"),
            ("/x?next=https://example.com", "/x?next=https://example.com"),
        ] {
            assert_eq!(local(next).as_deref(), Some(leads), "{next}");
        }
        for next in [
            "",
            "play",
            "//example.com",
            "///example.com",
            "/\\example.com",
            "\\\\example.com",
            "/\t/example.com",
            "/\n/example.com",
            "\t//example.com",
            " //example.com",
            "/x/..//example.com",
            "/.//example.com",
            "/%2e//example.com",
            "/%2E%2e//example.com",
            "https://example.com",
            "https:example.com",
            "javascript:alert(1)",
            "data:text/html,x",
            "?next=//example.com",
            "/a\r\nSet-Cookie: a=b",
            "/login?next=/login",
            "/logout",
            "/x/../login",
        ] {
            assert_eq!(local(next), None, "{next}");
        }
        assert_eq!(local(&format!("/{}", "x".repeat(LONGEST_NEXT))), None);
    }

    #[test]
    fn it_leads_on_below_any_folder() {
        let leads =
            |up: &str, next: Option<&str>| to(up, next).headers()[header::LOCATION].to_str().unwrap().to_owned();
        assert_eq!(leads("", None), "./");
        assert_eq!(leads("", Some("/play?a=b")), "./play?a=b");
        assert_eq!(leads("../", Some("/")), "../");
        for page in ["/", "/?a=/b", "/play", "/play#x", "/docs"] {
            assert!(is_a_page(page), "{page}");
        }
        for other in ["/manager/reboot", "/play/x", "/docs/waiting.js", "/players", "/files/x"] {
            assert!(!is_a_page(other), "{other}");
        }
    }

    #[test]
    fn what_was_sent_stays_text() {
        let form = form(Some("/\"><script>&"), Some("<b>"));
        assert!(form.contains(r#"value="/&quot;&gt;&lt;script&gt;&amp;""#), "{form}");
        assert!(form.contains("&lt;b&gt;") && !form.contains("<script>"), "{form}");
    }

    #[test]
    fn the_page_loads_nothing_and_runs_nothing() {
        assert!(!PAGE.contains("<script") && !PAGE.contains("http") && !PAGE.contains("style="));
        assert!(POLICY.starts_with("default-src 'none'; style-src 'sha256-") && !POLICY.contains("unsafe"));
        for place in ["<!--title-->", "<!--head-->", "<!--main-->"] {
            assert_eq!(PAGE.matches(place).count(), 1, "{place}");
        }
        let shown = shown(StatusCode::UNAUTHORIZED, "Log in", &form(None, Some(WRONG_KEY)), "");
        assert_eq!(shown.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(shown.headers()[header::CACHE_CONTROL], "no-store");
    }

    #[test]
    fn a_key_comes_as_a_form_or_as_json() {
        let headers = |kind: &str| HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
        let form = Bytes::from_static(b"next=%2Fplay&key=a%2Bb+c");
        for kind in [FORM, "Application/X-WWW-Form-Urlencoded; charset=utf-8"] {
            let sent = filled_in(&headers(kind), &form).unwrap_or_else(|_| panic!("{kind}"));
            assert_eq!((&*sent.key, sent.next.as_deref()), ("a+b c", Some("/play")));
        }
        assert!(filled_in(&headers("multipart/form-data; boundary=x"), &form).is_err());
        assert!(filled_in(&headers(FORM), &Bytes::from_static(b"next=/")).is_err());
        assert_eq!(
            json(&Bytes::from_static(br#"{"key": "a"}"#)).map(|sent| sent.key).ok(),
            Some("a".to_owned())
        );
        for wrong in ["", "[]", "{}", r#"{"key": 1}"#] {
            assert!(json(&Bytes::from_static(wrong.as_bytes())).is_err(), "{wrong}");
        }
    }
}
