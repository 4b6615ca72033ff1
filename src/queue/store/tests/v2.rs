//! Jobs of Comfy API v2: in pages and by labels, with their keys and outputs.

use std::collections::BTreeMap;

use super::*;
use crate::job::{ContentHash, Place, V2Owner};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    pairs.collect()
}

async fn came(store: &Store, key: Option<&str>, second: u64, metadata: &[(&str, &str)]) -> JobId {
    let mut job = new_job();
    job.created = at(second);
    job.policy.dialect = Dialect::ComfyV2;
    job.policy.v2 = Some(Box::new(V2Owner {
        key: key.map(str::to_owned),
        metadata: labels(metadata),
        ..V2Owner::default()
    }));
    let id = job.id.clone();
    store.insert(job).await.unwrap();
    id
}

async fn ids(store: &Store, wanted: JobsOfV2) -> Vec<JobId> {
    let (jobs, _) = store.jobs_of_v2(wanted).await.unwrap();
    jobs.into_iter().map(|job| job.id).collect()
}

#[tokio::test]
async fn jobs_are_listed_in_pages_for_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut own = Vec::new();
    for second in [1, 2, 2, 3, 4] {
        own.push(came(&store, Some("a"), second, &[("run", "7")]).await);
        came(&store, Some("b"), second, &[("run", "7")]).await;
        insert(&store).await;
    }
    own.sort_by_key(|id| id.as_str().to_owned());
    own.reverse();
    let wanted = |after: Option<Place>| JobsOfV2 {
        key: Some("a".to_owned()),
        after,
        limit: 2,
        ..JobsOfV2::default()
    };
    let mut seen = Vec::new();
    let mut after = None;
    for page in 0.. {
        let (jobs, next) = store.jobs_of_v2(wanted(after.take())).await.unwrap();
        seen.extend(jobs.into_iter().map(|job| job.id));
        after = next;
        if after.is_none() {
            break;
        }
        // What comes meanwhile changes no later page.
        came(&store, Some("a"), 10 + page, &[]).await;
    }
    assert_eq!(seen, own);
    assert_eq!(
        ids(
            &store,
            JobsOfV2 {
                limit: 9,
                ..JobsOfV2::default()
            }
        )
        .await,
        []
    );
}

#[tokio::test]
async fn jobs_are_found_by_their_labels_and_states() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let both = came(&store, None, 3, &[("client", "acme"), ("run \"7\"", "x.y")]).await;
    let one = came(&store, None, 2, &[("client", "acme")]).await;
    came(&store, None, 1, &[("client", "other")]).await;
    let wanted = |pairs: &[(&str, &str)]| JobsOfV2 {
        metadata: labels(pairs),
        limit: 9,
        ..JobsOfV2::default()
    };
    assert_eq!(
        ids(&store, wanted(&[("client", "acme")])).await,
        [both.clone(), one.clone()]
    );
    let pairs = [("client", "acme"), ("run \"7\"", "x.y")];
    assert_eq!(ids(&store, wanted(&pairs)).await, std::slice::from_ref(&both));
    assert_eq!(ids(&store, wanted(&[("none", "")])).await, []);
    store.finish(&one, end(JobState::Failed, "over")).await.unwrap();
    let failed = JobsOfV2 {
        states: Some(vec![JobState::Failed, JobState::TimedOut]),
        ..wanted(&[])
    };
    assert_eq!(ids(&store, failed).await, [one]);
}

#[tokio::test]
async fn a_key_does_for_one_job_and_is_free_where_none_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let job = |owner: &str, key: &str| NewJob {
        claims: Claims {
            key: Some((owner.to_owned(), key.to_owned())),
            contents: Vec::new(),
        },
        ..new_job()
    };
    let first = job("a", "k");
    let is_used = async |owner: &str| {
        let used = store.key_used(owner, Operation::Job, "k", at(1)).await;
        used.unwrap()
    };
    store.insert(first.clone()).await.unwrap();
    assert!(is_used("a").await && !is_used("b").await);
    let again = job("a", "k");
    assert!(matches!(store.insert(again.clone()).await, Err(StoreError::KeyUsed)));
    assert!(store.get(&again.id).await.unwrap().is_none());
    store.insert(job("b", "k")).await.unwrap();
    // The id is taken, so the key is not.
    let mut taken = job("a", "other");
    taken.id = first.id.clone();
    assert!(matches!(store.insert(taken).await, Err(StoreError::Duplicate(_))));
    store.insert(job("a", "other")).await.unwrap();
    let mut late = job("a", "k");
    late.created = at(24 * 3600 + 1);
    store.insert(late).await.unwrap();
    store.close().await;
    let store = open(folder.path()).await;
    assert!(matches!(store.insert(again).await, Err(StoreError::KeyUsed)));
}

#[tokio::test]
async fn outputs_are_found_by_their_ids_as_long_as_their_job_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let job = NewJob {
        claims: Claims {
            key: None,
            contents: vec![ContentHash::of(b"picture"), ContentHash::of(b"picture")],
        },
        ..new_job()
    };
    let id = job.id.clone();
    store.insert(job).await.unwrap();
    let hashes = || vec![ContentHash::of(b"picture"), ContentHash::of(b"other")];
    assert_eq!(store.needs(hashes()).await.unwrap(), [Need::Job, Need::Nothing]);
    for _ in 0..2 {
        store.committed(&id, vec!["out".to_owned()]).await.unwrap();
    }
    assert_eq!(store.job_of_output("out").await.unwrap(), Some(id.clone()));
    assert_eq!(store.job_of_output("other").await.unwrap(), None);
    store.committed(&JobId::new(), vec!["lost".to_owned()]).await.unwrap();
    assert_eq!(store.job_of_output("lost").await.unwrap(), None);
    store.finish(&id, end(JobState::Completed, "over")).await.unwrap();
    assert_eq!(store.needs(hashes()).await.unwrap(), [Need::Nothing, Need::Nothing]);
    remove(&store, &[id]).await;
    assert_eq!(store.job_of_output("out").await.unwrap(), None);
}
