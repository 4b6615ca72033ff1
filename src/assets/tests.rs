use std::fs;

use tempfile::TempDir;

use super::*;
use crate::queue::store::StoreOptions;

const LIMITS: AssetLimits = AssetLimits {
    max_bytes: 10_000_000,
    ttl: Duration::from_hours(1),
    models: false,
};

async fn store(folder: &TempDir) -> Store {
    Store::open(folder.path(), StoreOptions::default()).await.unwrap().0
}

async fn assets(folder: &TempDir, limits: AssetLimits) -> Assets {
    Assets::open(folder.path(), store(folder).await, limits).await.unwrap()
}

fn named(owner: &str) -> NewAsset {
    NewAsset {
        owner: owner.to_owned(),
        content_type: "text/plain".to_owned(),
        ..NewAsset::default()
    }
}

fn content(byte: u8, length: usize) -> Bytes {
    vec![byte; length].into()
}

async fn uploaded(assets: &Assets, content: Bytes) -> Result<Uploaded, AssetError> {
    let mut upload = assets.begin(None).await?;
    for piece in content.chunks(100_000) {
        upload.push(piece).await?;
    }
    upload.finish().await
}

async fn kept(assets: &Assets, owner: &str, content: Bytes) -> Result<(Asset, bool), AssetError> {
    let uploaded = uploaded(assets, content).await?;
    assets.mint(named(owner), uploaded, None).await
}

/// The files that are kept, and those that come.
fn on_disk(folder: &TempDir) -> (usize, usize) {
    let count = |path: &Path| fs::read_dir(path).unwrap().count();
    let blobs = folder.path().join("assets/blobs");
    let kept = fs::read_dir(blobs).unwrap().map(|part| count(&part.unwrap().path()));
    (kept.sum(), count(&folder.path().join("assets/incoming")))
}

fn use_by_job(folder: &TempDir, hash: ContentHash) {
    let connection = rusqlite::Connection::open(folder.path().join("jobs.db")).unwrap();
    connection
        .execute(
            "INSERT INTO asset_uses (job, hash) VALUES ('job', ?1)",
            [hash.to_string()],
        )
        .unwrap();
}

fn no_job_any_more(folder: &TempDir) {
    let connection = rusqlite::Connection::open(folder.path().join("jobs.db")).unwrap();
    connection.execute("DELETE FROM asset_uses", ()).unwrap();
}

#[tokio::test]
async fn bytes_are_kept_once_and_go_with_their_last_record() {
    let folder = tempfile::tempdir().unwrap();
    let assets = assets(&folder, LIMITS).await;
    let (first, is_new) = kept(&assets, "a", content(1, 300_000)).await.unwrap();
    assert!(is_new);
    let (second, is_new) = kept(&assets, "a", content(1, 300_000)).await.unwrap();
    assert!(!is_new && first.id != second.id);
    let (theirs, is_new) = kept(&assets, "b", content(1, 300_000)).await.unwrap();
    assert!(is_new, "that others have it is nobody's business");
    assert_eq!(on_disk(&folder), (1, 0));
    assert!(assets.has_hash("a", first.hash).await.unwrap());
    assert!(!assets.has_hash("c", first.hash).await.unwrap());
    assert!(assets.from_hash(named("c"), first.hash).await.unwrap().is_none());
    let third = assets.from_hash(named("a"), first.hash).await.unwrap().unwrap();
    for (owner, id) in [("a", &first.id), ("a", &second.id), ("b", &theirs.id)] {
        assert!(!assets.delete("c", id).await.unwrap());
        assert!(assets.delete(owner, id).await.unwrap());
        assert_eq!(on_disk(&folder), (1, 0));
    }
    assert!(assets.delete("a", &third.id).await.unwrap());
    assert!(!assets.delete("a", &third.id).await.unwrap());
    assert_eq!(on_disk(&folder), (0, 0));
    assert!(!assets.has_hash("a", first.hash).await.unwrap());
}

#[tokio::test]
async fn what_is_held_or_needed_by_a_job_stays() {
    let folder = tempfile::tempdir().unwrap();
    let assets = assets(&folder, LIMITS).await;
    let (asset, _) = kept(&assets, "a", content(1, 10)).await.unwrap();
    let hold = assets.hold();
    let ids = [asset.id.clone(), "unknown".to_owned()];
    let found = assets.referenced(&hold, "a", &ids).await.unwrap();
    assert_eq!(found.into_values().collect::<Vec<_>>(), std::slice::from_ref(&asset));
    assert!(assets.referenced(&hold, "b", &ids).await.unwrap().is_empty());
    assets.delete("a", &asset.id).await.unwrap();
    assets.tidy().await;
    assert_eq!(on_disk(&folder), (1, 0), "it is held");
    use_by_job(&folder, asset.hash);
    drop(hold);
    assets.tidy().await;
    assert_eq!(on_disk(&folder), (1, 0), "a job needs it");
    no_job_any_more(&folder);
    assets.tidy().await;
    assert_eq!(on_disk(&folder), (0, 0));

    let hold = assets.hold();
    let made = folder.path().join("made.png");
    fs::write(&made, "made").unwrap();
    let (hash, bytes) = assets.keep_file(&hold, &made).await.unwrap();
    assert_eq!((hash, bytes), (ContentHash::of(b"made"), 4));
    let (other, _) = assets.keep_bytes(&hold, content(2, 10)).await.unwrap();
    assets.tidy().await;
    assert_eq!(on_disk(&folder), (2, 0));
    use_by_job(&folder, other);
    drop(hold);
    assets.tidy().await;
    assert_eq!(on_disk(&folder), (1, 0));
    assert!(assets.path(other).exists());
}

#[tokio::test]
async fn records_go_with_their_time() {
    let folder = tempfile::tempdir().unwrap();
    let assets = assets(&folder, LIMITS).await;
    let soon = NewAsset {
        lifetime: Some(Duration::from_millis(50)),
        ..named("a")
    };
    let file = uploaded(&assets, content(1, 10)).await.unwrap();
    let (asset, _) = assets.mint(soon, file, None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(assets.get("a", &asset.id).await.unwrap(), None);
    assert_eq!(assets.get_by_link(&asset.id).await.unwrap(), None);
    assert!(!assets.has_hash("a", asset.hash).await.unwrap());
    assert!(!assets.delete("a", &asset.id).await.unwrap());
    assets.tidy().await;
    assert_eq!(on_disk(&folder), (0, 0));
}

#[tokio::test]
async fn the_oldest_go_for_what_comes_and_what_never_fits_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let assets = assets(&folder, LIMITS).await;
    let mut all = Vec::new();
    for byte in 0..3 {
        all.push(kept(&assets, "a", content(byte, 3_000_000)).await.unwrap().0);
    }
    use_by_job(&folder, all[0].hash);
    let (fourth, _) = kept(&assets, "a", content(9, 3_000_000)).await.unwrap();
    let there = async |asset: &Asset| assets.get("a", &asset.id).await.unwrap().is_some();
    assert!(there(&all[0]).await, "a job needs it");
    assert!(!there(&all[1]).await, "it was the oldest of the others");
    assert!(there(&all[2]).await && there(&fourth).await);
    assert_eq!(on_disk(&folder), (3, 0));

    let hold = assets.hold();
    let ids = [all[2].id.clone(), fourth.id.clone()];
    assets.referenced(&hold, "a", &ids).await.unwrap();
    let refused = kept(&assets, "a", content(10, 3_000_000)).await;
    assert!(matches!(refused, Err(AssetError::NoRoom { .. })), "{refused:?}");
    let refused = assets.begin(Some(20_000_000)).await;
    assert!(matches!(refused, Err(AssetError::TooLarge { .. })), "{refused:?}");
    drop(hold);
    no_job_any_more(&folder);
    let refused = kept(&assets, "a", content(10, 10_000_001)).await;
    assert!(matches!(refused, Err(AssetError::TooLarge { .. })), "{refused:?}");
    // Of exactly the limit, and all else goes for it.
    let (largest, _) = kept(&assets, "a", content(11, 10_000_000)).await.unwrap();
    assert!(there(&largest).await);
    assert_eq!(on_disk(&folder).0, 1);
}

#[tokio::test]
async fn what_has_no_record_in_the_end_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let assets = assets(&folder, LIMITS).await;
    let key = || Some("key".to_owned());
    let first = uploaded(&assets, content(1, 10)).await.unwrap();
    assets.mint(named("a"), first, key()).await.unwrap();
    assert!(assets.key_used("a", "key").await.unwrap() && !assets.key_used("b", "key").await.unwrap());
    let second = uploaded(&assets, content(2, 10)).await.unwrap();
    let refused = assets.mint(named("a"), second, key()).await;
    assert!(matches!(refused, Err(AssetError::KeyUsed)), "{refused:?}");
    drop(uploaded(&assets, content(3, 10)).await.unwrap());
    for _ in 0..500 {
        if on_disk(&folder) == (1, 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(on_disk(&folder), (1, 0));
    assert_eq!(assets.0.ledger.lock().room(), (10, 0), "all room was given back");
}

#[tokio::test]
async fn a_start_finds_what_was_kept_and_removes_what_is_not_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    let assets = Assets::open(folder.path(), store.clone(), LIMITS).await.unwrap();
    let (whole, _) = kept(&assets, "a", content(1, 10)).await.unwrap();
    let (cut, _) = kept(&assets, "a", content(2, 10)).await.unwrap();
    let (lost, _) = kept(&assets, "a", content(3, 10)).await.unwrap();
    fs::write(assets.path(cut.hash), "short").unwrap();
    fs::remove_file(assets.path(lost.hash)).unwrap();
    let orphan = assets.path(ContentHash::of(b"orphan"));
    fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    fs::write(&orphan, "orphan").unwrap();
    fs::write(folder.path().join("assets/incoming/left"), "half").unwrap();
    let again = Assets::open(folder.path(), store, LIMITS).await.unwrap();
    assert_eq!(again.get("a", &whole.id).await.unwrap(), Some(whole.clone()));
    assert_eq!(again.get("a", &cut.id).await.unwrap(), None);
    assert_eq!(again.get("a", &lost.id).await.unwrap(), None);
    assert_eq!(on_disk(&folder), (1, 0));
    assert_eq!(again.0.ledger.lock().room(), (10, 0));
}

/// Many upload, delete and tidy at once, and in the end what has a record has its file, and nothing else is there.
#[tokio::test(flavor = "multi_thread")]
async fn records_and_files_agree_whatever_happens_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let limits = AssetLimits {
        max_bytes: 3_000_000,
        ..LIMITS
    };
    let assets = assets(&folder, limits).await;
    let work = (0..8_u8).map(|n| {
        let assets = assets.clone();
        tokio::spawn(async move {
            for round in 0..30_u8 {
                // Some of them are the same.
                let made = kept(&assets, "a", content((n + round) % 5, 200_000)).await;
                if let Ok((asset, _)) = made {
                    let hold = assets.hold();
                    let found = assets
                        .referenced(&hold, "a", std::slice::from_ref(&asset.id))
                        .await
                        .unwrap();
                    for asset in found.values() {
                        assert!(assets.path(asset.hash).exists(), "what is held is there");
                    }
                    drop(hold);
                    if round % 2 == 0 {
                        assets.delete("a", &asset.id).await.unwrap();
                    }
                }
                if round % 7 == n % 7 {
                    assets.tidy().await;
                }
            }
        })
    });
    for done in futures_util::future::join_all(work).await {
        done.unwrap();
    }
    assets.tidy().await;
    let contents = assets.0.store.contents().await.unwrap();
    for (hash, bytes) in &contents {
        assert_eq!(fs::metadata(assets.path(*hash)).unwrap().len(), *bytes);
    }
    assert_eq!(on_disk(&folder), (contents.len(), 0));
    assert_eq!(assets.0.ledger.lock().room(), (contents.values().sum(), 0));
}
