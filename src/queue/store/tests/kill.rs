//! `kill -9` at any moment loses nothing that was answered.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use super::*;

/// Set for the process that is going to be killed.
const VICTIM: &str = "STORE_TEST_VICTIM_FOLDER";

/// What a kill leaves is what lies in the files at that moment, whether in a transaction or between two.
#[tokio::test]
async fn a_copy_of_the_files_at_any_moment_opens_with_all_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut answered = Vec::new();
    let mut expected = Vec::new();
    for n in 0..30 {
        let job = NewJob {
            payload: if n % 3 == 0 { big(n) } else { Bytes::from_static(b"x") },
            ..new_job()
        };
        let id = job.id.clone();
        store.insert(job).await.unwrap();
        answered.push(id.clone());
        if n % 2 == 0 {
            store.started(&id, 1).await.unwrap();
        }
        let (from, to) = (folder.path().to_owned(), copies.path().join(n.to_string()));
        // The copy is taken while the transaction has changed rows and is not committed.
        store
            .write(move |connection| {
                rows::submitted(connection, &id, "uncommitted", "local").ok();
                copy(&from, &to);
                Err::<(), _>(rusqlite::Error::InvalidQuery.into())
            })
            .await
            .unwrap_err();
        expected.push(answered.len());
    }
    for (n, expected) in expected.into_iter().enumerate() {
        let copy = copies.path().join(n.to_string());
        let (store, unfinished) = Store::open(&copy, OPTIONS).await.unwrap();
        assert_eq!(unfinished.len(), expected);
        assert!(unfinished.iter().all(|job| job.prompt_id.is_none()));
        for id in &answered[..expected] {
            assert!(store.payload(id).await.unwrap().is_some());
        }
        assert!(
            !std::fs::read_dir(&copy)
                .unwrap()
                .any(|entry| { entry.unwrap().file_name().to_str().unwrap().contains("damaged") })
        );
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("jobs")).unwrap();
    for name in ["jobs.db", "jobs.db-wal"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    for name in body_files(from) {
        std::fs::copy(from.join("jobs").join(&name), to.join("jobs").join(&name)).unwrap();
    }
}

/// Starts this test alone in a process of its own and kills it in the midst of its work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_leaves_what_it_answered() {
    if let Some(folder) = std::env::var_os(VICTIM) {
        return work_until_killed(Path::new(&folder)).await;
    }
    for round in 0..6_usize {
        let folder = tempfile::tempdir().unwrap();
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "queue::store::tests::kill::a_killed_process_leaves_what_it_answered",
            ])
            .env(VICTIM, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Not a round number of answers, and not the same each time.
        let lines = BufReader::new(victim.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let mut answered = HashMap::new();
        let mut take = |line: String| {
            if let Some((id, state)) = line.strip_prefix("answered ").and_then(|line| line.split_once(' ')) {
                answered.insert(id.to_owned(), JobState::parse(state).unwrap());
            }
        };
        let mut lines = lines;
        for line in lines.by_ref().take(40 + 97 * round) {
            take(line);
        }
        victim.kill().unwrap();
        // What was answered before the kill is still in the pipe; the last line may be cut.
        let mut rest: Vec<String> = lines.collect();
        rest.pop();
        rest.into_iter().for_each(take);
        victim.wait().unwrap();

        let (store, unfinished) = Store::open(folder.path(), OPTIONS).await.unwrap();
        assert!(answered.len() > 10, "{}", answered.len());
        for (id, state) in answered {
            let job = store.get(&JobId::parse(&id).unwrap()).await.unwrap().unwrap();
            // The next step may have been taken and not yet been told.
            assert!(
                job.state == state || state.may_become(job.state),
                "{state} {}",
                job.state
            );
            let payload = store.payload(&job.id).await.unwrap();
            assert_eq!(payload.is_none(), job.state == JobState::Completed);
            assert_eq!(job.state.is_final(), job.result.is_some());
            assert_eq!(job.state.is_final(), !unfinished.iter().any(|other| other.id == job.id));
        }
    }
}

async fn work_until_killed(folder: &Path) {
    let store = open(folder).await;
    let tell = |id: &JobId, state| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "answered {id} {state}").and_then(|()| out.flush())
    };
    let tasks = (0..4_u8).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            loop {
                let job = NewJob {
                    payload: if n == 0 { big(n) } else { Bytes::from_static(b"x") },
                    ..new_job()
                };
                let id = job.id.clone();
                store.insert(job).await.unwrap();
                tell(&id, JobState::Queued).unwrap();
                store.started(&id, 1).await.unwrap();
                tell(&id, JobState::Running).unwrap();
                assert!(store.finish(&id, end(JobState::Completed, big(n))).await.unwrap());
                tell(&id, JobState::Completed).unwrap();
            }
        })
    });
    futures_util::future::join_all(tasks).await;
}
