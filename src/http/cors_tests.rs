use axum::body::Body;

use super::*;
use crate::config::Config;

fn allowed(named: &Origins, origin: &str, host: &str) -> bool {
    let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
    may_use(named, None, &origin.parse().unwrap(), &headers)
}

#[test]
fn pages_of_this_machine_and_of_the_same_host_may() {
    let none = Origins::default();
    for origin in [
        "http://localhost:3000",
        "https://127.0.0.1",
        "http://[::1]:5173",
        "http://app.localhost",
        "http://192.168.1.5:3000",
    ] {
        assert!(allowed(&none, origin, "192.168.1.5:8188"), "{origin}");
    }
    for origin in [
        "null",
        "",
        "https://example.com",
        "http://localhost.example.com",
        "http://192.168.1.50",
        "file:///x",
    ] {
        assert!(!allowed(&none, origin, "192.168.1.5:8188"), "{origin}");
    }
}

#[test]
fn a_name_that_a_page_can_have_is_not_ours() {
    let known = |named: &Origins, public: Option<&str>, host: &str| {
        let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
        is_known(named, public.map(|url| url.parse().unwrap()).as_ref(), &headers)
    };
    let none = Origins::default();
    for host in [
        "localhost:8188",
        "localhost.",
        "app.localhost",
        "127.0.0.1:8188",
        "[::1]:8188",
        "192.168.1.5",
        "gpu-box:8188",
        "host.docker.internal:8188",
    ] {
        assert!(known(&none, None, host), "{host}");
    }
    assert!(is_known(&none, None, &HeaderMap::new()));
    for host in [
        "example.com:8188",
        "example.com.",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "example.com@127.0.0.1",
        "a b",
        "",
    ] {
        assert!(!known(&none, None, host), "{host}");
    }
    assert!(known(&none, Some("https://gpu.example.com/w"), "gpu.example.com"));
    let named = Origins::Named(vec!["https://app.example.com".to_owned()]);
    assert!(known(&named, None, "APP.example.com:8188"));
    assert!(!known(&named, None, "example.com"));
    assert!(known(&Origins::All, None, "example.com"));
}

#[test]
fn others_may_where_they_are_named() {
    let named = Origins::Named(vec!["https://app.example.com".to_owned()]);
    assert!(allowed(&named, "https://app.example.com", "a"));
    for origin in [
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://example.com",
    ] {
        assert!(!allowed(&named, origin, "a"), "{origin}");
    }
    assert!(allowed(&Origins::All, "null", "a"));
}

#[test]
fn one_host_is_named_or_none() {
    let is_clear = |hosts: &[&'static str]| {
        let hosts = hosts.iter().map(|host| (header::HOST, host.parse().unwrap()));
        unclear(&hosts.collect()).is_none()
    };
    for right in [
        [].as_slice(),
        &[""],
        &["localhost:8188"],
        &["gpu_box"],
        &["[::1]:80"],
        &["example.com."],
    ] {
        assert!(is_clear(right), "{right:?}");
    }
    for wrong in [
        ["a", "a"].as_slice(),
        &["127.0.0.1", "evil.example"],
        &["evil.example@127.0.0.1"],
        &["127.0.0.1/x"],
        &["a b"],
        &["a:port"],
    ] {
        assert!(!is_clear(wrong), "{wrong:?}");
    }
}

fn configured(vars: &[(&str, &str)]) -> HttpConfig {
    let vars = vars
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_vars(vars).unwrap().http
}

/// A request to a path of ComfyUI's, as a browser sends it to `127.0.0.1:8188`.
fn request(method: &str, headers: &[(&str, &str)]) -> Request {
    request_to("/pack/route", method, headers)
}

fn request_to(path: &str, method: &str, headers: &[(&str, &str)]) -> Request {
    let host = [("host", "127.0.0.1:8188")];
    let host = host.iter().filter(|_| headers.iter().all(|(name, _)| *name != "host"));
    let request = Request::builder().method(method).uri(path);
    let request = host
        .chain(headers)
        .fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::empty()).unwrap()
}

const UPGRADE: (&str, &str) = ("upgrade", "WebSocket");
const STRANGER: (&str, &str) = ("origin", "https://stranger.example.com");
const CROSS: (&str, &str) = ("sec-fetch-site", "cross-site");

#[test]
fn a_strangers_page_opens_no_websocket() {
    let http = configured(&[("CORS_ORIGINS", "https://app.example.com")]);
    let refused = |headers: &[(&str, &str)]| stranger(&http, &request("GET", headers), true).is_some();
    for strange in [
        [UPGRADE, STRANGER, ("x", "y")],
        [UPGRADE, STRANGER, CROSS],
        [UPGRADE, ("origin", "null"), ("x", "y")],
        [("upgrade", "h2c, websocket"), STRANGER, ("x", "y")],
        [
            UPGRADE,
            ("origin", "http://gpu.example.com"),
            ("x-forwarded-host", "example.com"),
        ],
    ] {
        assert!(refused(&strange), "{strange:?}");
    }
    for known in [
        [UPGRADE, ("origin", "http://127.0.0.1:8188"), ("x", "y")],
        [UPGRADE, ("origin", "http://localhost:3000"), ("x", "y")],
        [UPGRADE, ("origin", "https://app.example.com"), CROSS],
        [
            UPGRADE,
            ("origin", "https://gpu.example.com"),
            ("x-forwarded-host", "gpu.example.com"),
        ],
        [UPGRADE, STRANGER, ("sec-fetch-site", "same-origin")],
        // Programs.
        [UPGRADE, ("x", "y"), ("a", "b")],
    ] {
        assert!(!refused(&known), "{known:?}");
    }
    let http = configured(&[("PUBLIC_URL", "https://gpu.example.com/w")]);
    let from = [UPGRADE, ("origin", "https://gpu.example.com")];
    assert!(stranger(&http, &request("GET", &from), true).is_none());
    let http = configured(&[("CORS_ORIGINS", "*")]);
    assert!(stranger(&http, &request("GET", &[UPGRADE, STRANGER]), true).is_none());
}

#[test]
fn what_a_strangers_page_puts_into_itself_is_not_passed_on() {
    let http = configured(&[]);
    let refused = |method: &str, headers: &[(&str, &str)]| stranger(&http, &request(method, headers), true).is_some();
    let image = [CROSS, ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")];
    let frame = [CROSS, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
    let fetched = [CROSS, ("sec-fetch-mode", "cors"), STRANGER];
    let page = [CROSS, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    for method in ["GET", "HEAD"] {
        for strange in [image, frame, fetched] {
            assert!(refused(method, &strange), "{method} {strange:?}");
        }
    }
    // A pack may do anything on GET; the page itself may be gone to.
    let link = |site, path, passed_on| {
        let headers = [("sec-fetch-site", site), page[1], page[2]];
        stranger(&http, &request_to(path, "GET", &headers), passed_on).is_some()
    };
    for site in ["cross-site", "same-site"] {
        for path in ["/manager/reboot", "/api/pack", "/index.html", "/x?a=/"] {
            assert!(link(site, path, true), "{site} {path}");
        }
        assert!(!link(site, "/", true) && !link(site, "/?a=b", true) && !link(site, "/play", false));
    }
    for site in ["same-origin", "none"] {
        assert!(!link(site, "/manager/reboot", true), "{site}");
    }
    // A form that is sent shows a page too, and changes something.
    assert!(refused("POST", &[page[0], page[1], STRANGER]));
    for site in ["same-origin", "same-site", "none"] {
        assert!(
            !refused("GET", &[("sec-fetch-site", site), image[1], image[2]]),
            "{site}"
        );
    }
    let from_here = [CROSS, ("sec-fetch-mode", "cors"), ("origin", "http://localhost:3000")];
    assert!(!refused("GET", &from_here));
    assert!(!refused("GET", &[]) && !refused("POST", &[]));
    let http = configured(&[("CORS_ORIGINS", "*")]);
    assert!(stranger(&http, &request("GET", &image), true).is_none());
    assert!(stranger(&http, &request("GET", &page), true).is_none());
}

#[test]
fn the_manager_is_known_in_every_spelling() {
    for path in [
        "/manager/reboot",
        "/API/v2/Manager/queue/start",
        "/customnode/install/git_url",
        "/%6danager/reboot",
        "/%256D%2561nager/reboot",
        "/%2525256Danager/reboot",
        "/comfyui_manager/x",
        "/externalmodel/getlist",
        "/x/..;/snapshot/restore",
    ] {
        assert!(may_be_managers(path), "{path}");
    }
    for path in ["/", "/prompt", "/api/view", "/assets/index.js", "/pack/route%"] {
        assert!(!may_be_managers(path), "{path}");
    }
}

#[test]
fn cookies_count_for_our_own_pages() {
    let http = configured(&[("CORS_ORIGINS", "https://app.example.com")]);
    let count = |method: &str, headers: &[(&str, &str)]| cookies_count(&http, &request(method, headers));
    let own = ("origin", "http://127.0.0.1:8188");
    let neighbour = ("origin", "http://127.0.0.1:3000");
    let same_site = ("sec-fetch-site", "same-site");
    let navigate = ("sec-fetch-mode", "navigate");
    for (method, headers) in [
        ("GET", [("sec-fetch-site", "same-origin"), ("x", "y")]),
        ("GET", [("sec-fetch-site", "none"), navigate]),
        // By a link.
        ("GET", [CROSS, navigate]),
        ("GET", [same_site, navigate]),
        ("POST", [("sec-fetch-site", "same-origin"), own]),
        ("POST", [("origin", "https://app.example.com"), same_site]),
        // Where the browser does not say more.
        ("POST", [own, ("x", "y")]),
        ("GET", [UPGRADE, own]),
        ("GET", [("x", "y"), ("a", "b")]),
    ] {
        assert!(count(method, &headers), "{method} {headers:?}");
    }
    for (method, headers) in [
        ("GET", [same_site, ("sec-fetch-mode", "no-cors")]),
        ("GET", [same_site, neighbour]),
        ("POST", [same_site, navigate]),
        ("POST", [neighbour, ("x", "y")]),
        ("POST", [("origin", "null"), ("x", "y")]),
        ("GET", [UPGRADE, neighbour]),
        ("POST", [STRANGER, ("x", "y")]),
        // A page could write that header, but for a websocket.
        ("POST", [neighbour, ("x-forwarded-host", "127.0.0.1:3000")]),
    ] {
        assert!(!count(method, &headers), "{method} {headers:?}");
    }
    let public = [("host", "10.0.0.7"), ("origin", "https://gpu.example.com")];
    assert!(!count("POST", &public));
    let forwarded = [public[0], public[1], UPGRADE, ("x-forwarded-host", "gpu.example.com")];
    assert!(count("GET", &forwarded));
    let behind = configured(&[("PUBLIC_URL", "https://gpu.example.com/w")]);
    assert!(cookies_count(&behind, &request("POST", &public)));
    // Where every page may use the API, none may use a session.
    let all = configured(&[("CORS_ORIGINS", "*")]);
    assert!(!cookies_count(&all, &request("POST", &[STRANGER])));
}
