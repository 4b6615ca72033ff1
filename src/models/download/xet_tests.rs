//! Files by Xet from a storage on a real socket, whole and failing.

use super::testing::{Fault, HASH, SIGNATURE, Storage};
use super::*;
use crate::net::retry::RetryPolicy;
use crate::net::shown::with_causes;

/// Some parts and a bit.
const SIZE: usize = 5_000_003;

fn settings(storage: &Storage) -> Settings {
    Settings {
        endpoint: format!("http://127.0.0.1:{}", storage.port).parse().unwrap(),
        token: Some(Secret::new("hf_secret")),
        parallel: true,
        connections: 8,
        stall: Duration::from_secs(10),
        retry: RetryPolicy::default(),
        smallest_range: 1024 * 1024,
        xet: true,
    }
}

fn xet(storage: &Storage) -> Xet {
    Xet::new(&settings(storage)).unwrap()
}

fn file() -> XetFile<'static> {
    XetFile {
        repo: "org/repo",
        commit: "0123abcd",
        hash: HASH,
        size: SIZE as u64,
    }
}

/// Fetches a range and puts it together.
async fn fetch(xet: &Xet, range: Range<u64>) -> Result<Vec<u8>, XetError> {
    let mut pieces = xet.open(&file(), range).await?;
    let mut content = Vec::new();
    while let Some(bytes) = pieces.next().await? {
        content.extend_from_slice(&bytes);
    }
    Ok(content)
}

/// The error of a fetch that must fail; it has no secret in it.
async fn failure(settings: &Settings) -> String {
    let error = with_causes(&fetch(&Xet::new(settings).unwrap(), 0..SIZE as u64).await.unwrap_err());
    for secret in ["hf_secret", "cas-4711", SIGNATURE] {
        assert!(!error.contains(secret), "{error}");
    }
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_whole() {
    let storage = Storage::start(SIZE).await;
    let content = fetch(&xet(&storage), 0..SIZE as u64).await.unwrap();
    assert!(content == storage.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_comes_alone() {
    let storage = Storage::start(SIZE).await;
    let content = fetch(&xet(&storage), 1_234_567..3_456_789).await.unwrap();
    assert!(content == storage.content.slice(1_234_567..3_456_789));
    let parts: Vec<_> = storage.came("/cdn").into_iter().map(|(path, _)| path).collect();
    assert!(
        !parts.contains(&"/cdn/0".to_owned()) && !parts.contains(&"/cdn/4".to_owned()),
        "{parts:?}"
    );
}

#[tokio::test]
async fn a_runtime_of_one_thread_serves_as_well() {
    let storage = Storage::start(SIZE).await;
    let content = fetch(&xet(&storage), 0..SIZE as u64).await.unwrap();
    assert!(content == storage.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_goes_to_the_hub_alone() {
    let storage = Storage::start(SIZE).await;
    fetch(&xet(&storage), 0..SIZE as u64).await.unwrap();
    let hub = (
        "/api/models/org/repo/xet-read-token/0123abcd".to_owned(),
        Some("Bearer hf_secret".to_owned()),
    );
    assert_eq!(storage.came("/api"), [hub]);
    assert!(
        storage
            .came("/cas")
            .iter()
            .all(|(_, token)| token.as_deref() == Some("Bearer cas-4711"))
    );
    assert!(storage.came("/cdn").iter().all(|(_, token)| token.is_none()));
    assert!(storage.came("").iter().all(|(path, _)| !path.contains("telemetry")));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_of_each_is_made_good() {
    let storage = Storage::start(SIZE).await;
    storage.fail("/api", Fault::Status(503), 1);
    storage.fail("/cas/v2", Fault::Status(500), 1);
    // The signature is no longer good.
    storage.fail("/cdn/1", Fault::Status(403), 1);
    storage.fail("/cdn/2", Fault::Cut, 1);
    let content = fetch(&xet(&storage), 0..SIZE as u64).await.unwrap();
    assert!(content == storage.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_gives_no_token_is_told() {
    let storage = Storage::start(SIZE).await;
    storage.fail("/api", Fault::Status(401), usize::MAX);
    let error = failure(&settings(&storage))
        .await
        .replace(&storage.port.to_string(), "PORT");
    insta::assert_snapshot!(error, @"Network error: Request error: HTTP status client error (401 Unauthorized), domain: http://127.0.0.1:PORT/api/models/org/repo/xet-read-token/0123abcd");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_not_there_is_an_error() {
    let storage = Storage::start(SIZE).await;
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    storage.storage_is_at(&format!("http://127.0.0.1:{port}/cas"));
    failure(&settings(&storage)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_gone_are_an_error() {
    let storage = Storage::start(SIZE).await;
    storage.fail("/cdn/2", Fault::Status(404), usize::MAX);
    failure(&settings(&storage)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_ends_early_is_an_error() {
    let storage = Storage::start(SIZE / 2).await;
    insta::assert_snapshot!(failure(&settings(&storage)).await, @"the file ended 2500002 bytes early");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends() {
    for (path, fault) in [
        ("/api", Fault::Hang),
        ("/cas/v2", Fault::Hang),
        ("/cdn/0", Fault::Hang),
        ("/cdn/0", Fault::Hold),
    ] {
        let storage = Storage::start(SIZE).await;
        storage.fail(path, fault, usize::MAX);
        let settings = Settings {
            stall: Duration::from_millis(50),
            ..settings(&storage)
        };
        // By the crate's own limit or by ours, whichever comes first.
        failure(&settings).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_transfer_gives_back_what_it_held() {
    let mut storage = Storage::start(SIZE).await;
    storage.fail("/cdn/1", Fault::Hold, 1);
    let settings = Settings {
        connections: 1,
        stall: Duration::from_millis(500),
        ..settings(&storage)
    };
    let xet = Xet::new(&settings).unwrap();
    let mut pieces = xet.open(&file(), 0..SIZE as u64).await.unwrap();
    pieces.next().await.unwrap().unwrap();
    drop(pieces);
    storage.gave_up().await;
    let content = fetch(&xet, 0..SIZE as u64).await.unwrap();
    assert!(content == storage.content);
}
