//! The guard against real sockets, with a look-up that says what it is told.

use std::collections::HashMap;
use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::{Redirect, Response};
use axum::routing::get;
use futures_util::StreamExt as _;

use super::*;

/// Longer than any answer here takes.
const SILENCE: Duration = Duration::from_mins(1);

/// Answers names from a table.
struct Table(HashMap<&'static str, Vec<&'static str>>);

impl Resolve for Table {
    fn resolve(&self, name: Name) -> Resolving {
        let found = self.0.get(name.as_str()).map(|addresses| {
            let sockets: Vec<SocketAddr> = addresses
                .iter()
                .map(|address| SocketAddr::new(address.parse().unwrap(), 0))
                .collect();
            sockets
        });
        Box::pin(async move {
            let found = found.ok_or("no such name")?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn guard(allowed: &str, names: &[(&'static str, &[&'static str])]) -> AddressGuard {
    let table = names.iter().map(|(name, found)| (*name, found.to_vec())).collect();
    AddressGuard::with_lookup(PrivateUrls::parse(allowed).unwrap(), Arc::new(Table(table)))
}

fn check(allowed: &str, url: &str) -> Result<(), String> {
    guard(allowed, &[])
        .check_url(&url.parse().unwrap())
        .map_err(|refused| refused.to_string())
}

/// A body that stops in its midst, and does not end.
fn half() -> Body {
    let begin = futures_util::stream::iter([Ok::<_, Infallible>("half")]);
    Body::from_stream(begin.chain(futures_util::stream::pending()))
}

/// A server on 127.0.0.1 that says hello, says half of it or nothing, redirects to `/to?url=`, or to itself without end.
async fn server() -> (u16, String) {
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/big", get(|| async { "x".repeat(100_000) }))
        .route("/never", get(std::future::pending::<()>))
        .route("/half", get(|| async { Response::new(half()) }))
        .route(
            "/to",
            get(|Query(query): Query<HashMap<String, String>>| async move { Redirect::temporary(&query["url"]) }),
        )
        .route(
            "/hops/{left}",
            get(|Path(left): Path<u32>| async move {
                match left {
                    0 => Err(StatusCode::OK),
                    _ => Ok(Redirect::temporary(&format!("/hops/{}", left - 1))),
                }
            }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (port, format!("http://127.0.0.1:{port}"))
}

/// Gets a URL; an error is the refusal's text, or the client's.
async fn fetch(guard: &AddressGuard, url: &str) -> Result<u16, String> {
    let client = guard.client(Redirects::Checked, SILENCE).unwrap();
    let request = client
        .request(Method::GET, &url.parse().unwrap())
        .map_err(|refused| refused.to_string())?;
    match request.send().await {
        Ok(response) => Ok(response.status().as_u16()),
        Err(error) => Err(Refused::within(&error).map_or_else(|| format!("not refused: {error}"), ToString::to_string)),
    }
}

#[test]
fn literal_addresses_in_every_spelling() {
    for (url, words) in [
        (
            "http://127.0.0.1/",
            "127.0.0.1 is refused: it is not public but loopback",
        ),
        ("http://127.1/", "127.0.0.1 is refused"),
        ("http://0x7f.1/", "127.0.0.1 is refused"),
        ("http://0177.0.0.1/", "127.0.0.1 is refused"),
        ("http://2130706433/", "127.0.0.1 is refused"),
        ("http://0x7f000001/", "127.0.0.1 is refused"),
        ("http://127.0.0.1./", "127.0.0.1 is refused"),
        ("http://%31%32%37.0.0.1/", "127.0.0.1 is refused"),
        ("http://127。0。0。1/", "127.0.0.1 is refused"),
        ("http://①②⑦.0.0.1/", "127.0.0.1 is refused"),
        ("http://0/", "0.0.0.0 is refused"),
        ("https://169.254.169.254/latest/meta-data", "metadata"),
        ("http://[::1]/", "::1 is refused"),
        ("http://[::]/", "unspecified"),
        (
            "http://[::ffff:10.0.0.1]/",
            "::ffff:10.0.0.1 is refused: it is not public but private",
        ),
        ("http://[::ffff:a00:1]/", "::ffff:10.0.0.1 is refused"),
        ("http://[64:ff9b::a9fe:a9fe]/", "metadata"),
        ("http://[2002:7f00:1::]/", "6to4"),
        ("http://[fe80::1]/", "link-local"),
        ("http://example.com@10.0.0.1/", "10.0.0.1 is refused"),
        ("http://example.com:80@10.0.0.1:81/", "10.0.0.1 is refused"),
        ("http:10.0.0.1", "10.0.0.1 is refused"),
        ("http:\\\\10.0.0.1\\", "10.0.0.1 is refused"),
        ("file:///etc/passwd", "`file` is refused"),
        ("ftp://example.com/", "`ftp` is refused"),
        ("data:text/plain,hello", "`data` is refused"),
    ] {
        let refused = check("false", url).unwrap_err();
        assert!(refused.contains(words), "{url}: {refused}");
    }
    for url in [
        "http://1.1.1.1/",
        "https://[2606:4700:4700::1111]/",
        "http://example.com/",
        "http://u:p@example.com/",
    ] {
        assert_eq!(check("false", url), Ok(()), "{url}");
    }
    // A zone id is no URL at all.
    "http://[fe80::1%25eth0]/".parse::<Url>().unwrap_err();
}

#[test]
fn what_is_allowed_is_allowed_and_no_more() {
    assert_eq!(check("true", "http://169.254.169.254/"), Ok(()));
    assert_eq!(check("10.0.0.0/8", "http://10.1.2.3/"), Ok(()));
    assert_eq!(check("10.0.0.0/8", "http://[::ffff:10.1.2.3]/"), Ok(()));
    check("10.0.0.0/8", "http://192.168.0.1/").unwrap_err();
    check("hooks.internal", "http://10.0.0.1/").unwrap_err();
    check("true", "file:///etc/passwd").unwrap_err();
}

#[test]
fn a_refusal_names_what_would_allow_it() {
    let refused = check("false", "http://10.0.0.1/").unwrap_err();
    assert!(
        refused.ends_with("ALLOW_PRIVATE_URLS=10.0.0.1 would allow it"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_name_is_judged_by_what_it_resolves_to() {
    let names: &[(&str, &[&str])] = &[
        ("rebound.test", &["127.0.0.1"]),
        ("metadata.test", &["::ffff:169.254.169.254"]),
        ("both.test", &["10.0.0.1", "127.0.0.1"]),
    ];
    let closed = guard("false", names);
    for (name, words) in [
        (
            "rebound.test",
            "the name rebound.test is refused: its address 127.0.0.1 is not public but loopback (RFC 1122); ALLOW_PRIVATE_URLS=rebound.test would allow it",
        ),
        ("metadata.test", "metadata"),
        ("both.test", "10.0.0.1"),
    ] {
        let url = format!("http://{name}:9/");
        let refused = fetch(&closed, &url).await.unwrap_err();
        assert!(refused.contains(words), "{name}: {refused}");
        let early = closed.check_url_and_name(&url.parse().unwrap()).await.unwrap_err();
        assert_eq!(early.to_string(), refused, "{name}");
    }
    let unknown = closed
        .check_url_and_name(&"http://unknown.test/".parse().unwrap())
        .await;
    assert_eq!(unknown, Ok(()), "a name that does not resolve is no refusal");
}

#[tokio::test]
async fn an_allowed_name_and_an_allowed_network_are_dialled() {
    let (port, _) = server().await;
    let names: &[(&str, &[&str])] = &[
        ("hooks.test", &["127.0.0.1"]),
        ("both.test", &["10.0.0.1", "127.0.0.1"]),
    ];
    assert_eq!(
        fetch(&guard("hooks.test", names), &format!("http://hooks.test:{port}/")).await,
        Ok(200)
    );
    // Of two addresses only the allowed one is dialled.
    assert_eq!(
        fetch(&guard("127.0.0.1", names), &format!("http://both.test:{port}/")).await,
        Ok(200)
    );
}

#[tokio::test]
async fn every_redirect_is_judged() {
    let (port, url) = server().await;
    let guard = guard("127.0.0.1/32", &[("inside.test", &["10.0.0.1"])]);
    for (target, words) in [
        ("http://127.0.0.2/", "127.0.0.2 is refused"),
        ("http://169.254.169.254/latest/meta-data", "metadata"),
        ("http://[::ffff:10.0.0.1]/", "::ffff:10.0.0.1 is refused"),
        ("http://0x7f000002/", "127.0.0.2 is refused"),
        ("http://inside.test/", "inside.test is refused"),
    ] {
        let refused = fetch(&guard, &format!("{url}/to?url={target}")).await.unwrap_err();
        assert!(refused.contains(words), "{target}: {refused}");
    }
    assert_eq!(
        fetch(&guard, &format!("{url}/to?url=http://127.0.0.1:{port}/")).await,
        Ok(200)
    );
    assert_eq!(fetch(&guard, &format!("{url}/hops/5")).await, Ok(200));
    let refused = fetch(&guard, &format!("{url}/hops/6")).await.unwrap_err();
    assert_eq!(refused, "more than 5 redirects are not followed");
}

#[tokio::test]
async fn a_redirect_is_the_answer_where_none_is_followed() {
    let (_, url) = server().await;
    let client = guard("127.0.0.1", &[]).client(Redirects::Never, SILENCE).unwrap();
    let request = client.request(Method::GET, &format!("{url}/hops/1").parse().unwrap());
    assert_eq!(request.unwrap().send().await.unwrap().status(), 307);
}

#[tokio::test]
async fn a_body_is_read_up_to_the_limit() {
    let (_, url) = server().await;
    let client = guard("127.0.0.1", &[]).client(Redirects::Checked, SILENCE).unwrap();
    let get = async |limit| {
        let request = client
            .request(Method::GET, &format!("{url}/big").parse().unwrap())
            .unwrap();
        read_limited(request.send().await.unwrap(), limit).await
    };
    assert_eq!(get(100_000).await.unwrap().len(), 100_000);
    assert!(matches!(get(99_999).await, Err(ReadError::TooLarge { limit: 99_999 })));
}

#[tokio::test]
async fn a_server_is_given_up_after_the_silence_that_the_caller_allows() {
    let (_, url) = server().await;
    let guard = guard("127.0.0.1", &[]);
    let client = guard.client(Redirects::Checked, Duration::from_millis(50)).unwrap();
    let get = |path: &str| client.request(Method::GET, &format!("{url}{path}").parse().unwrap());
    let error = get("/never").unwrap().send().await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    let begun = get("/half").unwrap().send().await.unwrap();
    let Err(ReadError::Broken { source }) = read_limited(begun, 1_000).await else {
        panic!("it is whole")
    };
    assert!(source.is_timeout(), "{source:?}");
}

#[tokio::test]
async fn a_connection_of_our_own_goes_only_where_the_guard_allows() {
    let (port, _) = server().await;
    let dialled = async |allowed: &str, found: &'static [&'static str]| {
        let guard = guard(allowed, &[("models.example.com", found)]);
        let url = format!("http://models.example.com:{port}").parse().unwrap();
        let dialled = crate::net::dial::Dialer::default().dial(&url, Some(&guard)).await;
        dialled.map(|_| ()).map_err(|error| error.to_string())
    };
    let refused = dialled("false", &["127.0.0.1"]).await.unwrap_err();
    assert!(refused.contains("127.0.0.1 is not public"), "{refused}");
    // The address that was judged is the one that is reached.
    assert_eq!(dialled("127.0.0.1", &["10.0.0.1", "127.0.0.1"]).await, Ok(()));
    assert_eq!(dialled("models.example.com", &["127.0.0.1"]).await, Ok(()));
}
