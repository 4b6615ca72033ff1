//! Files that the Hub has in Xet, through the whole download.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Secret;
use crate::models::download::xet::testing::{Fault, PATH, Storage};
use crate::models::download::{Downloader, Fetched, HubFile, Progress, Settings, Wanted};

/// Some parts and a bit.
const SIZE: usize = 5_000_003;

fn settings(storage: &Storage) -> Settings {
    Settings {
        smallest_range: 1 << 20,
        xet: true,
        ..Settings::new(
            format!("http://127.0.0.1:{}", storage.port).parse().unwrap(),
            Some(Secret::new("hf_secret")),
        )
    }
}

/// Downloads the file, which must come right, into a folder where nothing else is left but the lock.
async fn download(storage: &Storage, settings: Settings) -> Fetched {
    let folder = TempDir::new().unwrap();
    let target: PathBuf = folder.path().join(PATH);
    let wanted = Wanted {
        source: Source::Hub(HubFile {
            repo: "org/repo".to_owned(),
            revision: "main".to_owned(),
            path: PATH.to_owned(),
        }),
        target: target.clone(),
        size: None,
        sha256: None,
    };
    let downloader = Downloader::new(settings).unwrap();
    let mut fetched = downloader
        .fetch(vec![wanted], &|_: Progress<'_>| {}, CancellationToken::new())
        .await;
    let fetched = fetched.remove(0).1.unwrap();
    assert!(fs::read(target).unwrap() == storage.content);
    let left = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(
        left.filter(|name| !name.to_string_lossy().ends_with(".lock")).count(),
        1
    );
    fetched
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_by_xet_alone() {
    let storage = Storage::start(SIZE).await;
    let fetched = download(&storage, settings(&storage)).await;
    assert_eq!((fetched.size, fetched.received), (SIZE as u64, SIZE as u64));
    assert_eq!(fetched.commit.as_deref(), Some("0123abcd"));
    assert!(storage.came("/whole").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn xet_that_is_not_wanted_is_not_asked() {
    let storage = Storage::start(SIZE).await;
    let settings = Settings {
        xet: false,
        ..settings(&storage)
    };
    download(&storage, settings).await;
    assert!(storage.came("/api").is_empty() && storage.came("/cas").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_xet_is_not_to_be_had_ranges_bring_the_file() {
    for path in ["/api", "/cas"] {
        for status in [401, 404, 500] {
            let storage = Storage::start(SIZE).await;
            storage.fail(path, Fault::Status(status), usize::MAX);
            download(&storage, settings(&storage)).await;
        }
    }
    let storage = Storage::start(SIZE).await;
    storage.storage_is_at("http://127.0.0.1:1/cas");
    download(&storage, settings(&storage)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_xet_stops_ranges_go_on() {
    for fault in [Fault::Status(404), Fault::Hang, Fault::Hold, Fault::Cut] {
        let storage = Storage::start(SIZE).await;
        storage.fail("/cdn/3", fault, usize::MAX);
        // One part after the other.
        let settings = Settings {
            stall: Duration::from_millis(200),
            connections: 1,
            ..settings(&storage)
        };
        let fetched = download(&storage, settings).await;
        let (first, _) = &storage.came("/whole ")[0];
        let first: usize = first.trim_start_matches("/whole ").parse().unwrap();
        // The parts before it were not fetched again.
        assert!((1..=3 << 20).contains(&first), "{fault:?}: {first}");
        assert_eq!(fetched.received, SIZE as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_by_xet_come_again_by_ranges() {
    let storage = Storage::start(SIZE).await;
    storage.fail("/cdn/2", Fault::Wrong, usize::MAX);
    let fetched = download(&storage, settings(&storage)).await;
    assert_eq!(fetched.received, 2 * SIZE as u64);
    assert_eq!(storage.came("/api").len(), 1);
}
