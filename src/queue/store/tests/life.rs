//! What the store remembers, and what it refuses.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[tokio::test]
async fn a_job_is_remembered_with_all_that_happened_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut job = new_job();
    job.policy.priority = -1;
    job.policy.ttl = Some(Duration::from_mins(1));
    job.policy.webhook = Some("https://example.com/hook".parse().unwrap());
    let (id, policy, payload) = (job.id.clone(), job.policy.clone(), job.payload.clone());
    store.insert(job).await.unwrap();
    store.started(&id, 1).await.unwrap();
    store.submitted(&id, "prompt", "local").await.unwrap();

    let running = StoredJob {
        id: id.clone(),
        state: JobState::Running,
        created: at(0),
        delay: None,
        execution: None,
        attempts: 1,
        prompt_id: Some("prompt".to_owned()),
        engine: Some("local".to_owned()),
        policy,
        result: None,
    };
    assert_eq!(store.get(&id).await.unwrap(), Some(running.clone()));

    store.close().await;
    let (store, unfinished) = Store::open(folder.path(), OPTIONS).await.unwrap();
    assert_eq!(unfinished, std::slice::from_ref(&running));
    assert_eq!(store.payload(&id).await.unwrap(), Some(payload));

    assert!(store.finish(&id, end(JobState::Completed, "done")).await.unwrap());
    let completed = StoredJob {
        state: JobState::Completed,
        delay: Some(Duration::from_secs(10)),
        execution: Some(Duration::from_millis(10_500)),
        result: Some(Bytes::from_static(b"done")),
        ..running
    };
    assert_eq!(store.get(&id).await.unwrap(), Some(completed));

    store.close().await;
    let (_, unfinished) = Store::open(folder.path(), OPTIONS).await.unwrap();
    assert_eq!(unfinished, []);
}

#[tokio::test]
async fn only_the_steps_of_a_life_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for from in JobState::ALL {
        for to in JobState::ALL {
            let id = insert(&store).await;
            if from != JobState::Queued {
                store.started(&id, 1).await.unwrap();
            }
            if from.is_final() {
                assert!(store.finish(&id, end(from, "first")).await.unwrap());
            }
            let step = match to {
                JobState::Queued => store.requeued(&id).await.map(|()| true),
                JobState::Running => store.started(&id, 2).await.map(|()| true),
                _ => store.finish(&id, end(to, "second")).await,
            };
            let state = store.get(&id).await.unwrap().unwrap().state;
            if from.may_become(to) {
                assert!(step.unwrap(), "{from} to {to}");
                assert_eq!(state, to);
            } else {
                assert_eq!(state, from);
                match step {
                    Ok(ended) => assert!(!ended && from.is_final() && to.is_final(), "{from} to {to}"),
                    Err(StoreError::IllegalStep { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn unknown_ids_and_second_inserts_are_told_apart_from_illegal_steps() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let stranger = JobId::new();
    assert_eq!(store.get(&stranger).await.unwrap(), None);
    assert_eq!(store.payload(&stranger).await.unwrap(), None);
    let unknown = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Unknown(_))));
    unknown(store.started(&stranger, 1).await);
    unknown(store.submitted(&stranger, "prompt", "local").await);
    unknown(store.requeued(&stranger).await);
    unknown(store.finish(&stranger, end(JobState::Failed, "")).await.map(|_| ()));

    let mut job = new_job();
    job.payload = big(1);
    store.insert(job.clone()).await.unwrap();
    let again = NewJob {
        payload: big(2),
        ..job.clone()
    };
    assert!(matches!(store.insert(again).await, Err(StoreError::Duplicate(_))));
    assert_eq!(store.payload(&job.id).await.unwrap(), Some(big(1)));
    assert_eq!(body_files(folder.path()).len(), 1);

    assert!(matches!(
        store.finish(&job.id, end(JobState::Running, "")).await,
        Err(StoreError::IllegalStep { .. })
    ));
}

#[tokio::test]
async fn of_many_ends_at_once_one_counts_with_all_that_belongs_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let id = insert(&store).await;
    store.started(&id, 1).await.unwrap();
    let ends = (0..8_u8).map(|n| {
        let (store, id) = (store.clone(), id.clone());
        let mut end = end(
            if n % 2 == 0 {
                JobState::Completed
            } else {
                JobState::Cancelled
            },
            big(n),
        );
        end.webhook = Some(webhook(&format!("message-{n}")));
        tokio::spawn(async move { store.finish(&id, end).await.unwrap().then_some(n) })
    });
    let mut winners = Vec::new();
    for end in ends.collect::<Vec<_>>() {
        winners.extend(end.await.unwrap());
    }
    let [winner] = winners[..] else { panic!("{winners:?}") };
    assert_eq!(store.get(&id).await.unwrap().unwrap().result, Some(big(winner)));
    let due = store.due_webhooks(at(100), &[], 10).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].id, format!("message-{winner}"));
    assert_eq!(
        body_files(folder.path()).len(),
        1,
        "the bodies of the other ends are gone"
    );
}

#[tokio::test]
async fn a_retry_begins_anew_and_withdraws_what_was_not_yet_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let id = insert(&store).await;
    store.started(&id, 1).await.unwrap();
    store.requeued(&id).await.unwrap();
    assert_eq!(
        store.get(&id).await.unwrap().unwrap().attempts,
        1,
        "the worker's own try counts"
    );
    store.started(&id, 2).await.unwrap();
    let mut failed = end(JobState::Failed, big(1));
    failed.webhook = Some(webhook("first"));
    assert!(store.finish(&id, failed).await.unwrap());

    store.retried(&id, at(30), &Policy::default()).await.unwrap();
    let job = store.get(&id).await.unwrap().unwrap();
    assert_eq!(
        (job.state, job.created, job.attempts, job.delay, job.result),
        (JobState::Queued, at(30), 0, None, None)
    );
    assert!(store.payload(&id).await.unwrap().is_some());
    assert_eq!(
        store.next_webhook_after(SystemTime::UNIX_EPOCH, &[]).await.unwrap(),
        None
    );
    assert_eq!(body_files(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn large_bodies_lie_in_private_files_and_go_with_their_job() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let job = NewJob {
        payload: big(7),
        ..new_job()
    };
    let id = job.id.clone();
    store.insert(job).await.unwrap();
    store.started(&id, 1).await.unwrap();
    store.finish(&id, end(JobState::Failed, big(8))).await.unwrap();
    assert_eq!(store.payload(&id).await.unwrap(), Some(big(7)));
    assert_eq!(store.get(&id).await.unwrap().unwrap().result, Some(big(8)));
    let names = body_files(folder.path());
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| name.starts_with(id.as_str())), "{names:?}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.path().join("jobs").join(&names[0])), 0o600);
    for name in ["jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.lock"] {
        assert_eq!(mode(&folder.path().join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&folder.path().join("jobs")), 0o700);

    remove(&store, std::slice::from_ref(&id)).await;
    assert_eq!(body_files(folder.path()), Vec::<String>::new());
    assert_eq!(store.get(&id).await.unwrap(), None);
    assert_eq!(store.payload(&id).await.unwrap(), None);
}

#[tokio::test]
async fn lists_come_in_pages_and_by_state() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut ids = Vec::new();
    for n in 0..7 {
        let id = insert(&store).await;
        if n % 2 == 0 {
            store.finish(&id, end(JobState::Cancelled, "")).await.unwrap();
        }
        ids.insert(0, id);
    }
    let ids_of = |jobs: Vec<StoredJob>| jobs.into_iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(ids_of(store.list(None, None, 4).await.unwrap()), ids[..4]);
    assert_eq!(ids_of(store.list(None, None, 10).await.unwrap()), ids);
    let queued = ids_of(store.list(Some(JobState::Queued), None, 2).await.unwrap());
    assert_eq!(queued, [ids[1].clone(), ids[3].clone()]);
}

#[tokio::test]
async fn unfinished_jobs_come_back_in_the_order_of_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut ids = Vec::new();
    for priority in [0, -1, 5, 0, 5] {
        let mut job = new_job();
        job.policy.priority = priority;
        ids.push(job.id.clone());
        store.insert(job).await.unwrap();
    }
    store.started(&ids[3], 1).await.unwrap();
    store.close().await;
    let (_, unfinished) = Store::open(folder.path(), OPTIONS).await.unwrap();
    let order: Vec<usize> = unfinished
        .iter()
        .map(|job| ids.iter().position(|id| *id == job.id).unwrap())
        .collect();
    assert_eq!(order, [3, 2, 4, 0, 1]);
}

#[tokio::test]
async fn the_jobs_of_one_api_are_found_behind_any_number_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut job = new_job();
    job.policy.dialect = Dialect::EditPlus;
    let id = job.id.clone();
    store.insert(job).await.unwrap();
    for _ in 0..5 {
        insert(&store).await;
    }
    let ids = async |state, dialect| -> Vec<JobId> {
        let jobs = store.list(state, dialect, 2).await.unwrap();
        jobs.into_iter().map(|job| job.id).collect()
    };
    assert_eq!(ids(None, Some(Dialect::EditPlus)).await, std::slice::from_ref(&id));
    assert_eq!(ids(Some(JobState::Queued), Some(Dialect::EditPlus)).await, [id]);
    assert_eq!(ids(Some(JobState::Failed), Some(Dialect::EditPlus)).await, []);
    assert_eq!(ids(None, Some(Dialect::Runpod)).await.len(), 2);
}

#[tokio::test]
async fn an_end_is_taken_although_the_begin_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let id = insert(&store).await;
    let begun = Finished {
        attempts: 2,
        ..end(JobState::Completed, "done")
    };
    assert!(store.finish(&id, begun.clone()).await.unwrap());
    let job = store.get(&id).await.unwrap().unwrap();
    assert_eq!((job.state, job.attempts), (JobState::Completed, 2));
    // Written again, since nobody knew whether it was: it is there once.
    assert!(!store.finish(&id, begun).await.unwrap());
}
