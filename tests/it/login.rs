//! `/login`, and what a browser may do with the cookie that it gets there. ComfyUI is not needed for that.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::redirect::Policy;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::binary::Served;
use crate::support::{PATIENCE, Worker};

/// Where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const JSON: (&str, &str) = ("content-type", "application/json");
const HTML: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
const SESSION: &str = "qwen_image_worker_session=";
const VISITOR: &str = "qwen_image_worker_visitor=";

async fn ask(url: &str, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let client = reqwest::Client::builder().no_proxy().redirect(Policy::none());
    let client = client.timeout(PATIENCE).build().expect("a client");
    let request = client.request(method, format!("{url}{path}")).body(body.to_owned());
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value));
    request.send().await.expect("an answer")
}

async fn get(url: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    ask(url, Method::GET, path, headers, "").await
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    Some(answer.headers().get(name)?.to_str().expect("a text"))
}

/// The whole of the cookie whose name and `=` are given, as the answer sets it.
fn cookie(answer: &Response, begin: &str) -> Option<String> {
    let cookies = answer.headers().get_all("set-cookie").iter();
    let mut cookies = cookies.filter_map(|cookie| cookie.to_str().ok());
    cookies.find(|cookie| cookie.starts_with(begin)).map(str::to_owned)
}

/// A cookie as a browser sends it back.
fn sent_back(cookie: &str) -> &str {
    cookie.split(';').next().expect("a part")
}

/// Logs in with a key; gives the cookie as a browser sends it.
async fn log_in(url: &str, key: &str) -> String {
    let answer = ask(url, Method::POST, "/login", &[FORM], &format!("key={key}")).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "location")),
        (303, Some("./"))
    );
    sent_back(&cookie(&answer, SESSION).expect("a cookie")).to_owned()
}

async fn is_in(url: &str, cookie: &str) -> bool {
    get(url, "/health", &[("cookie", cookie)]).await.status() != 401
}

async fn worker() -> Worker {
    Worker::attached(NOWHERE, &[("API_KEY", "first-key, second-key")]).await
}

#[tokio::test]
async fn a_key_opens_a_session_and_logout_ends_it() {
    let worker = worker().await;
    let url = &worker.url;
    let page = get(url, "/login?next=%2Fplay%3Fa%3Db", &[HTML]).await;
    assert_eq!(page.status(), 200);
    let policy = header(&page, "content-security-policy").expect("a policy");
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let text = page.text().await.expect("a page");
    assert!(
        text.contains("value=\"/play?a=b\"") && text.contains("API_KEY"),
        "{text}"
    );

    let form = "key=first-key&next=%2Fplay%3Fa%3Db";
    let answer = ask(url, Method::POST, "/login", &[FORM], form).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "location")),
        (303, Some("./play?a=b"))
    );
    let set = cookie(&answer, SESSION).expect("a cookie");
    assert!(
        set.ends_with("; Path=/; Max-Age=604800; HttpOnly; SameSite=Strict"),
        "{set}"
    );
    let session = sent_back(&set);
    assert_eq!(session.len(), SESSION.len() + 64, "{session}");
    assert!(!session.contains("first-key"));
    assert_eq!(header(&answer, "cache-control"), Some("private, no-store"));

    assert!(is_in(url, session).await && is_in(url, &format!("a=b; {session}; c")).await);
    // Used on the same day, it needs no other cookie.
    let health = get(url, "/health", &[("cookie", session)]).await;
    assert_eq!(cookie(&health, SESSION), None);
    let page = get(url, "/login", &[HTML, ("cookie", session)]).await;
    assert!(page.text().await.expect("a page").contains("Log out"));
    let led = get(url, "/login?next=%2Fplay", &[HTML, ("cookie", session)]).await;
    assert_eq!((led.status().as_u16(), header(&led, "location")), (303, Some("./play")));

    let out = ask(url, Method::POST, "/logout", &[("cookie", session)], "").await;
    assert_eq!((out.status().as_u16(), header(&out, "location")), (303, Some("login")));
    assert!(cookie(&out, SESSION).is_some_and(|cookie| cookie.contains("Max-Age=0")));
    assert!(!is_in(url, session).await);
    // Without a session too.
    assert_eq!(ask(url, Method::POST, "/logout", &[], "").await.status(), 303);
}

#[tokio::test]
async fn a_wrong_key_opens_nothing_and_takes_its_time() {
    let worker = worker().await;
    for key in ["", "first", "first-key%2Csecond-key", "%00", "%FF"] {
        let begun = Instant::now();
        let answer = ask(
            &worker.url,
            Method::POST,
            "/login",
            &[FORM],
            &format!("key={key}&next=%2Fplay"),
        )
        .await;
        assert!(begun.elapsed() >= Duration::from_millis(300));
        assert_eq!(
            (answer.status().as_u16(), cookie(&answer, SESSION)),
            (401, None),
            "{key}"
        );
        assert_eq!(header(&answer, "content-type"), Some("text/html; charset=utf-8"));
        let text = answer.text().await.expect("a page");
        assert!(
            text.contains("role=\"alert\"") && text.contains("none of the keys") && text.contains("value=\"/play\""),
            "{text}"
        );
    }
    let answer = ask(&worker.url, Method::POST, "/login", &[JSON], r#"{"key": "first"}"#).await;
    assert_eq!(answer.status(), 401);
    let body: Value = answer.json().await.expect("JSON");
    assert!(
        body["error"].as_str().is_some_and(|error| error.contains("API_KEY")),
        "{body:#}"
    );
    let strange = [("content-type", "multipart/form-data; boundary=x"), FORM];
    for (header, body) in [(JSON, "{"), (FORM, "next=%2F"), (strange[0], "--x")] {
        let answer = ask(&worker.url, Method::POST, "/login", &[header], body).await;
        assert_eq!(answer.status(), 400, "{body}");
    }
    let answer = ask(&worker.url, Method::POST, "/login", &[JSON], r#"{"key": "second-key"}"#).await;
    let session = cookie(&answer, SESSION).expect("a cookie");
    assert!(is_in(&worker.url, sent_back(&session)).await);
    assert_eq!(
        answer.json::<Value>().await.expect("JSON"),
        json!({"expires_in": 604_800})
    );
}

#[tokio::test]
async fn the_login_leads_to_pages_of_ours_alone() {
    let worker = worker().await;
    for next in [
        "https://stranger.example.com",
        "//stranger.example.com",
        "/\\stranger.example.com",
        "/x/..//s.example",
    ] {
        let encoded: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
        let page = get(&worker.url, &format!("/login?next={encoded}"), &[HTML]).await;
        let text = page.text().await.expect("a page");
        assert!(!text.contains("example"), "{text}");
        let form = format!("key=first-key&next={encoded}");
        let answer = ask(&worker.url, Method::POST, "/login", &[FORM], &form).await;
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "location")),
            (303, Some("./")),
            "{next}"
        );
    }
}

#[tokio::test]
async fn a_browser_is_led_to_the_login_and_a_program_is_not() {
    let worker = worker().await;
    for (path, leads) in [
        ("/", "login?next=%2F"),
        ("/play", "login?next=%2Fplay"),
        ("/index.html?a=b&c", "login?next=%2Findex.html%3Fa%3Db%26c"),
        ("/files/x", "../login?next=%2Ffiles%2Fx"),
        ("/pack/page/", "../../login?next=%2Fpack%2Fpage"),
    ] {
        let answer = get(&worker.url, path, &[HTML]).await;
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "location")),
            (303, Some(leads))
        );
        assert_eq!(cookie(&answer, VISITOR), None);
        for program in [("accept", "*/*"), ("accept", "application/json")] {
            assert_eq!(get(&worker.url, path, &[program]).await.status(), 401, "{path}");
        }
        // Parts of a page.
        for part in [("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "iframe")] {
            assert_eq!(get(&worker.url, path, &[HTML, part]).await.status(), 401, "{path}");
        }
        assert_eq!(ask(&worker.url, Method::POST, path, &[HTML], "").await.status(), 401);
    }
    for path in ["/health", "/requests", "/v1/models"] {
        assert_eq!(get(&worker.url, path, &[HTML]).await.status(), 401, "{path}");
    }
    assert_eq!(get(&worker.edit_url, "/", &[HTML]).await.status(), 401);
    // Below a folder, whether that is configured or not, all of it is relative.
    let answer = get(&worker.url, "/login/?next=%2Fplay", &[HTML]).await;
    assert_eq!(header(&answer, "location"), Some("../login?next=%2Fplay"));
    let below = [("API_KEY", "first-key"), ("PUBLIC_URL", "https://gpu.example.com/w/")];
    let below = Worker::attached(NOWHERE, &below).await;
    let answer = get(&below.url, "/?a", &[HTML]).await;
    assert_eq!(header(&answer, "location"), Some("login?next=%2F%3Fa"));
    let answer = ask(&below.url, Method::POST, "/login", &[FORM], "key=first-key").await;
    assert_eq!(header(&answer, "location"), Some("./"));
    let host = format!("__Host-{SESSION}");
    let session = cookie(&answer, &host).expect("a cookie");
    assert!(session.ends_with("; Secure"), "{session}");
    assert!(is_in(&below.url, sent_back(&session)).await);
    let out = ask(
        &below.url,
        Method::POST,
        "/logout",
        &[("cookie", sent_back(&session))],
        "",
    )
    .await;
    assert!(cookie(&out, &host).is_some_and(|cookie| cookie.contains("Max-Age=0")));
}

#[tokio::test]
async fn a_link_on_another_page_does_not_ask_for_the_key_again() {
    let worker = worker().await;
    let session = log_in(&worker.url, "first-key").await;
    let cross = ("sec-fetch-site", "cross-site");
    // The browser keeps the cookie back, and then sends it with what our page asks for.
    let page = get(&worker.url, "/login?next=%2Fplay", &[HTML, cross]).await;
    let text = page.text().await.expect("a page");
    assert!(
        text.contains("content=\"0; url=login?again=1&amp;next=%2Fplay\""),
        "{text}"
    );
    let same = [HTML, ("sec-fetch-site", "same-origin"), ("cookie", session.as_str())];
    let led = get(&worker.url, "/login?again=1&next=%2Fplay", &same).await;
    assert_eq!(header(&led, "location"), Some("./play"));
    let page = get(&worker.url, "/login?again=1&next=%2Fplay", &[HTML, cross]).await;
    assert!(!page.text().await.expect("a page").contains("refresh"));
    // By http a browser does not say where a link stood.
    let page = get(&worker.url, "/login?next=%2Fplay", &[HTML]).await;
    assert!(page.text().await.expect("a page").contains("url=login?again=1&amp;"));
    let page = get(&worker.url, "/login?again=1&next=%2Fplay", &[HTML]).await;
    assert!(!page.text().await.expect("a page").contains("refresh"));
    let page = get(
        &worker.url,
        "/login?next=%2Fplay",
        &[HTML, ("sec-fetch-site", "same-origin")],
    )
    .await;
    assert!(!page.text().await.expect("a page").contains("refresh"));
}

#[tokio::test]
async fn a_link_on_another_page_does_nothing_with_a_session() {
    let worker = worker().await;
    let session = log_in(&worker.url, "first-key").await;
    let site = |site| ("sec-fetch-site", site);
    let cookie = ("cookie", session.as_str());
    // Straight to a route of a pack.
    for (from, headers) in [("cross-site", &[HTML][..]), ("same-site", &[HTML, cookie][..])] {
        let headers = [headers, &[site(from)]].concat();
        let answer = get(&worker.url, "/manager/reboot", &headers).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "location")), (403, None));
        assert_ne!(get(&worker.url, "/", &headers).await.status(), 403, "{from}");
    }
    // By way of the login, which then asks once more by itself.
    let next = "/login?next=%2Fmanager%2Freboot";
    for headers in [&[HTML, site("cross-site")][..], &[HTML]] {
        let page = get(&worker.url, next, headers).await;
        let text = page.text().await.expect("a page");
        assert!(
            text.contains("again=1&amp;next=%2F\"") && !text.contains("reboot"),
            "{text}"
        );
    }
    let again = "/login?again=1&next=%2Fmanager%2Freboot";
    for (path, from) in [(again, "same-origin"), (again, "cross-site"), (next, "same-site")] {
        let answer = get(&worker.url, path, &[HTML, cookie, site(from)]).await;
        assert!(
            !header(&answer, "location").unwrap_or_default().contains("reboot"),
            "{from}"
        );
        assert!(!answer.text().await.expect("a page").contains("reboot"), "{from}");
    }
    // One's own bookmark leads on.
    let led = get(&worker.url, next, &[HTML, cookie, site("none")]).await;
    assert_eq!(header(&led, "location"), Some("./manager/reboot"));
}

#[tokio::test]
async fn guessers_keep_no_owner_out() {
    let worker = worker().await;
    let guesses: Vec<_> = (0..100)
        .map(|number| {
            let url = worker.url.clone();
            tokio::spawn(async move { ask(&url, Method::POST, "/login", &[FORM], &format!("key={number}")).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(guesses.iter().filter(|guess| !guess.is_finished()).count() > 50);
    log_in(&worker.url, "first-key").await;
    // Theirs are still to come: the owner's was answered before them.
    assert!(guesses.iter().any(|guess| !guess.is_finished()));
    for guess in guesses {
        guess.abort();
    }
}

#[tokio::test]
async fn what_a_session_gets_is_kept_by_no_shared_cache() {
    let worker = worker().await;
    let session = log_in(&worker.url, "first-key").await;
    for path in ["/health", "/play", "/no-such-route"] {
        let answer = get(&worker.url, path, &[("cookie", session.as_str())]).await;
        let kept = header(&answer, "cache-control").unwrap_or_default();
        assert!(kept.starts_with("private"), "{path}: {kept}");
    }
    let open = Worker::attached(NOWHERE, &[]).await;
    let answer = get(&open.url, "/health", &[]).await;
    assert_eq!(header(&answer, "cache-control"), None);
}

#[tokio::test]
async fn the_manager_answers_under_no_name_that_a_page_can_have() {
    let led = [("host", "stranger.example.com:8188")];
    let vars = [("HOST", "0.0.0.0"), ("COMFYUI_MANAGER", "true")];
    let open = Worker::attached(NOWHERE, &vars).await;
    assert_eq!(get(&open.url, "/manager/reboot", &led).await.status(), 403);
    assert_eq!(get(&open.url, "/api/v2/%256danager/reboot", &led).await.status(), 403);
    for known in [[("host", "192.168.1.5:8188")], [("host", "gpu-box")]] {
        assert_ne!(get(&open.url, "/manager/reboot", &known).await.status(), 403);
    }
    assert_ne!(get(&open.url, "/other/route", &led).await.status(), 403);
    let named = [&vars[..], &[("PUBLIC_URL", "http://stranger.example.com:8188")]].concat();
    let named = Worker::attached(NOWHERE, &named).await;
    assert_ne!(get(&named.url, "/manager/reboot", &led).await.status(), 403);
}

#[tokio::test]
async fn a_session_is_for_our_own_pages() {
    let worker = worker().await;
    let session = log_in(&worker.url, "first-key").await;
    let cookie = ("cookie", session.as_str());
    let purge = async |headers: &[(&str, &str)]| {
        let headers = [&[cookie][..], headers].concat();
        ask(&worker.url, Method::POST, "/purge-queue", &headers, "")
            .await
            .status()
            .as_u16()
    };
    assert_eq!(
        purge(&[("origin", worker.url.as_str()), ("sec-fetch-site", "same-origin")]).await,
        200
    );
    assert_eq!(purge(&[("origin", worker.url.as_str())]).await, 200);
    // Another program on the same machine, whose cookies are the same to a browser.
    let neighbour = ("origin", "http://127.0.0.1:3000");
    assert_eq!(purge(&[neighbour, ("sec-fetch-site", "same-site")]).await, 401);
    assert_eq!(purge(&[neighbour]).await, 401);
    let out = ask(&worker.url, Method::POST, "/logout", &[cookie, neighbour], "").await;
    assert_eq!(self::cookie(&out, SESSION), None);
    assert!(is_in(&worker.url, &session).await);
    let stranger = ("origin", "https://stranger.example.com");
    assert_eq!(purge(&[stranger]).await, 403);
    assert_eq!(purge(&[stranger, ("sec-fetch-site", "cross-site")]).await, 403);
}

#[tokio::test]
async fn a_strangers_page_opens_no_websocket() {
    for vars in [&[][..], &[("API_KEY", "first-key")][..]] {
        let worker = Worker::attached(NOWHERE, vars).await;
        let upgrade = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("authorization", "Bearer first-key"),
        ];
        for path in ["/ws?clientId=a", "/api/ws?clientId=a", "/pack/socket"] {
            for (origin, is_refused) in [
                ("https://stranger.example.com", true),
                ("null", true),
                (worker.url.as_str(), false),
            ] {
                let headers = [&upgrade[..], &[("origin", origin)][..]].concat();
                let answer = get(&worker.url, path, &headers).await;
                assert_eq!(
                    answer.status() == 403,
                    is_refused,
                    "{path} {origin}: {}",
                    answer.status()
                );
            }
        }
        let rebound = [
            ("host", "stranger.example.com:8188"),
            ("origin", "http://stranger.example.com:8188"),
        ];
        let rebound = [&upgrade[..], &rebound].concat();
        if vars.is_empty() {
            for path in ["/ws?clientId=a", "/", "/play", "/login"] {
                assert_eq!(get(&worker.url, path, &rebound).await.status(), 403, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn programs_bring_a_key_as_a_password() {
    let worker = worker().await;
    // `user:second-key`, `first-key:`.
    for right in ["Basic dXNlcjpzZWNvbmQta2V5", "Basic Zmlyc3Qta2V5Og=="] {
        let answer = get(&worker.url, "/health", &[("authorization", right)]).await;
        assert_ne!(answer.status(), 401, "{right}");
    }
    for wrong in ["Basic dXNlcjpwYXNz", "Basic", "Basic %%%", "Basic Zmlyc3Qta2V5"] {
        let answer = get(&worker.url, "/health", &[("authorization", wrong)]).await;
        assert_eq!(answer.status(), 401, "{wrong}");
        assert_eq!(header(&answer, "www-authenticate"), Some("Bearer"));
    }
}

#[tokio::test]
async fn without_keys_there_is_no_login() {
    let worker = Worker::attached(NOWHERE, &[]).await;
    let answer = get(&worker.url, "/login?next=%2Fplay", &[HTML]).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "location")),
        (303, Some("./"))
    );
    let answer = ask(&worker.url, Method::POST, "/login", &[FORM], "key=a").await;
    assert_eq!(
        (header(&answer, "location"), cookie(&answer, SESSION)),
        (Some("./"), None)
    );
}

fn variables(folder: &Path, keys: &str) -> BTreeMap<String, String> {
    let folder = folder.display().to_string();
    let vars = [
        ("DATA_DIR", &*folder),
        ("COMFYUI_URL", NOWHERE),
        ("COMFY_REGISTRY_URL", "http://127.0.0.1:1"),
        ("PORT", "0"),
        ("EDIT_PORT", "none"),
        ("API_KEY", keys),
    ];
    vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

#[tokio::test]
async fn a_session_outlasts_a_worker_that_is_killed_and_ends_with_its_key() {
    let data = tempfile::tempdir().expect("a folder");
    let worker = Served::start(&variables(data.path(), "first-key,second-key")).await;
    let (first, second) = (
        log_in(&worker.url, "first-key").await,
        log_in(&worker.url, "second-key").await,
    );
    worker.kill().await;
    let kept = std::fs::read_to_string(data.path().join("sessions.json")).expect("a file");
    for secret in [
        &first[SESSION.len()..],
        &second[SESSION.len()..],
        "first-key",
        "second-key",
    ] {
        assert!(!kept.contains(secret), "{kept}");
    }
    let worker = Served::start(&variables(data.path(), "second-key,third-key")).await;
    assert!(!is_in(&worker.url, &first).await && is_in(&worker.url, &second).await);
    let out = ask(&worker.url, Method::POST, "/logout", &[("cookie", second.as_str())], "").await;
    assert_eq!(out.status(), 303);
    worker.kill().await;
    let worker = Served::start(&variables(data.path(), "first-key,second-key")).await;
    assert!(!is_in(&worker.url, &first).await && !is_in(&worker.url, &second).await);
    worker.kill().await;
}
