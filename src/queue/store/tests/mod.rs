mod faults;
mod kept;
mod kill;
mod left;
mod life;
mod model;
mod shown;
mod uploads;
mod v2;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::*;
use crate::executor::{Claim, LeftFile};
use crate::job::{Dialect, JobState, OutputFolder, Policy};

/// Small enough that tests reach the files with little.
const OPTIONS: StoreOptions = StoreOptions {
    inline_bytes: 1000,
    patience: Duration::from_millis(50),
};

async fn open(folder: &Path) -> Store {
    Store::open(folder, OPTIONS).await.unwrap().0
}

/// Microseconds have no fraction here, so times come back as they went in.
fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn new_job() -> NewJob {
    NewJob {
        id: JobId::new(),
        created: at(0),
        policy: Policy::default(),
        payload: Bytes::from_static(b"{\"input\":{}}"),
        claims: Claims::default(),
    }
}

async fn insert(store: &Store) -> JobId {
    let job = new_job();
    let id = job.id.clone();
    store.insert(job).await.unwrap();
    id
}

/// Removes jobs as their owners do.
async fn remove(store: &Store, ids: &[JobId]) {
    for id in ids {
        if let Some(job) = store.expired_now(id).await.unwrap() {
            assert!(store.expire(vec![job]).await.unwrap());
        }
    }
}

fn end(state: JobState, result: impl Into<Bytes>) -> Finished {
    Finished {
        state,
        at: at(20),
        delay: Duration::from_secs(10),
        execution: Duration::from_millis(10_500),
        attempts: 0,
        keeps_payload: state.may_become(JobState::Queued),
        result: result.into(),
        files: Vec::new(),
        outputs: Vec::new(),
        webhook: None,
        unreported: false,
    }
}

fn file(filename: &str, bytes: u64) -> LeftFile {
    LeftFile {
        folder: OutputFolder::Output,
        subfolder: "a/b".to_owned(),
        filename: filename.to_owned(),
        bytes,
        claim: Claim::Made,
    }
}

fn webhook(id: &str) -> WebhookRow {
    WebhookRow {
        id: id.to_owned(),
        url: format!("https://{id}.example.com/hook").parse().unwrap(),
    }
}

fn big(byte: u8) -> Bytes {
    vec![byte; 5000].into()
}

/// How many jobs the store knows in this state.
async fn jobs_in(store: &Store, state: JobState) -> usize {
    store.list(Some(state), None, 1000).await.unwrap().len()
}

/// The names in the folder of bodies.
fn body_files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder.join("jobs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
