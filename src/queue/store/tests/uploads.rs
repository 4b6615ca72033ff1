//! Records of uploads, what needs their contents, and the keys of requests.

use super::*;
use crate::job::ContentHash;
use crate::queue::store::{Asset, Need, Operation, REMEMBERED, StoreError};

fn asset(owner: &str, content: &str, seconds: u64) -> Asset {
    Asset {
        id: Uuid::new_v4().to_string(),
        owner: owner.to_owned(),
        hash: ContentHash::of(content.as_bytes()),
        bytes: content.len() as u64,
        content_type: "image/png".to_owned(),
        file_path: Some("a.png".to_owned()),
        tags: vec!["input".to_owned(), "ä".to_owned()],
        created: at(seconds),
        expires: at(seconds + 100),
    }
}

async fn kept(store: &Store, asset: &Asset) -> bool {
    store.insert_asset(asset.clone(), None).await.unwrap()
}

async fn use_by_job(store: &Store, job: &'static str, hash: ContentHash) {
    let hash = hash.to_string();
    store
        .write(move |connection| {
            connection.execute("INSERT INTO asset_uses (job, hash) VALUES (?1, ?2)", (job, &hash))?;
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_record_is_there_for_its_owner_until_its_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let (mine, again, theirs) = (asset("a", "x", 0), asset("a", "x", 1), asset("b", "x", 2));
    assert!(kept(&store, &mine).await);
    assert!(!kept(&store, &again).await, "the same owner has it already");
    assert!(kept(&store, &theirs).await, "what others have is none of ours");
    assert_eq!(store.asset("a", &mine.id, at(99)).await.unwrap().as_ref(), Some(&mine));
    for (owner, now) in [("b", 99), ("", 99), ("a", 100)] {
        assert_eq!(
            store.asset(owner, &mine.id, at(now)).await.unwrap(),
            None,
            "{owner} {now}"
        );
    }
    assert_eq!(
        store.asset_of_anybody(&mine.id, at(99)).await.unwrap(),
        Some(mine.clone())
    );
    assert_eq!(store.asset_of_anybody(&mine.id, at(100)).await.unwrap(), None);
    let newest = store.asset_with("a", mine.hash, at(99)).await.unwrap();
    assert_eq!(newest, Some(again.clone()));
    assert_eq!(store.asset_with("a", mine.hash, at(101)).await.unwrap(), None);
    assert_eq!(store.asset_with("c", mine.hash, at(99)).await.unwrap(), None);
    let ids = [mine.id.clone(), theirs.id.clone(), "x".to_owned()];
    let found: Vec<_> = store.assets("a", &ids, at(99)).await.unwrap().into_keys().collect();
    assert_eq!(found, [mine.id.clone()]);

    assert!(!store.delete_asset("b", &mine.id, at(99)).await.unwrap());
    assert!(store.delete_asset("a", &mine.id, at(99)).await.unwrap());
    assert!(!store.delete_asset("a", &mine.id, at(99)).await.unwrap());
    assert_eq!(store.expire_assets(at(100)).await.unwrap(), []);
    assert_eq!(store.expire_assets(at(101)).await.unwrap(), [again.hash]);
    assert_eq!(
        store.contents().await.unwrap().into_iter().collect::<Vec<_>>(),
        [(theirs.hash, 1)]
    );
    store.lose_contents(vec![theirs.hash]).await.unwrap();
    assert!(store.contents().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_content_is_needed_by_its_records_and_by_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let (old, used, fresh) = (asset("a", "old", 0), asset("a", "used", 1), asset("a", "new", 2));
    for record in [&fresh, &used, &old] {
        kept(&store, record).await;
    }
    let output = ContentHash::of(b"output");
    use_by_job(&store, "job", used.hash).await;
    use_by_job(&store, "job", output).await;
    let asked = vec![old.hash, used.hash, output, ContentHash::of(b"nobody's")];
    let needs = [Need::Record, Need::Record, Need::Job, Need::Nothing];
    assert_eq!(store.needs(asked).await.unwrap(), needs);
    assert_eq!(store.oldest_assets().await.unwrap(), [old.hash, fresh.hash]);
    // Somebody asked for it anew.
    kept(&store, &asset("b", "old", 3)).await;
    assert_eq!(store.oldest_assets().await.unwrap(), [fresh.hash, old.hash]);
    assert!(!store.delete_assets_with(used.hash).await.unwrap());
    assert!(store.delete_assets_with(old.hash).await.unwrap());
    assert_eq!(store.needs(vec![old.hash]).await.unwrap(), [Need::Nothing]);
}

#[tokio::test]
async fn a_key_is_used_once_in_a_day_and_by_success_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let day = REMEMBERED.as_secs();
    let used = async |owner: &'static str, operation, now: u64| {
        store.key_used(owner, operation, "key", at(now)).await.unwrap()
    };
    assert!(!used("a", Operation::Asset, 0).await);
    let first = asset("a", "x", 0);
    store.insert_asset(first.clone(), Some("key".to_owned())).await.unwrap();
    let second = asset("a", "x", 1);
    let refused = store.insert_asset(second.clone(), Some("key".to_owned())).await;
    assert!(matches!(refused, Err(StoreError::KeyUsed)), "{refused:?}");
    assert_eq!(store.asset("a", &second.id, at(2)).await.unwrap(), None);
    assert!(used("a", Operation::Asset, day - 1).await);
    assert!(!used("b", Operation::Asset, 1).await && !used("a", Operation::Job, 1).await);
    assert!(!used("a", Operation::Asset, day).await);
    let later = asset("a", "x", day);
    store.insert_asset(later, Some("key".to_owned())).await.unwrap();
    assert!(used("a", Operation::Asset, day + 1).await);
    // A record that cannot be written leaves its key free.
    let twice = store.insert_asset(first, Some("other".to_owned())).await;
    assert!(twice.is_err());
    assert!(!store.key_used("a", Operation::Asset, "other", at(1)).await.unwrap());
    store.expire_assets(at(2 * day)).await.unwrap();
    let left = store.read(|connection| {
        Ok(connection.query_row("SELECT count(*) FROM idempotency_keys", (), |row| row.get::<_, i64>(0))?)
    });
    assert_eq!(left.await.unwrap(), 0);
}

#[tokio::test]
async fn of_requests_with_one_key_at_once_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let asked = (0..20).map(|n| {
        let content = n.to_string();
        store.insert_asset(asset("a", &content, 0), Some("key".to_owned()))
    });
    let done = futures_util::future::join_all(asked).await;
    assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1);
    assert_eq!(store.contents().await.unwrap().len(), 1);
}
