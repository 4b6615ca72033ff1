//! What breaks around the store.

use super::*;

/// Runs SQL on the connection of the store.
async fn on_thread(store: &Store, sql: &'static str) {
    store
        .read(move |connection| Ok(connection.execute_batch(sql)?))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_folder_belongs_to_one_worker() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let second = Store::open(folder.path(), OPTIONS).await.unwrap_err();
    assert!(matches!(second, StoreError::InUse(_)), "{second}");
    assert!(second.hint().unwrap().contains("DATA_DIR"));
    insert(&store).await;
    store.close().await;
    assert!(matches!(store.list(None, None, 1).await, Err(StoreError::Stopped)));
    open(folder.path()).await;
}

#[tokio::test]
async fn a_damaged_database_is_moved_aside_and_the_worker_goes_on() {
    // A broken header, a broken page in the middle, and something that never was a database.
    for (offset, length) in [(0, 64), (4096, 8192), (0, 100_000)] {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let lost = NewJob {
            payload: big(1),
            ..new_job()
        };
        store.insert(lost.clone()).await.unwrap();
        store.close().await;
        let path = folder.path().join("jobs.db");
        let mut bytes = std::fs::read(&path).unwrap();
        let end = (offset + length).min(bytes.len());
        bytes[offset..end].fill(0xA5);
        std::fs::write(&path, bytes).unwrap();

        let (store, unfinished) = Store::open(folder.path(), OPTIONS).await.unwrap();
        assert_eq!(unfinished, []);
        let id = insert(&store).await;
        assert!(store.get(&id).await.unwrap().is_some());
        let aside = |start: &str| {
            let names = std::fs::read_dir(folder.path()).unwrap();
            names
                .map(|entry| entry.unwrap().path())
                .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start))
        };
        assert!(aside("jobs.db.damaged-").is_some());
        let bodies = aside("jobs.damaged-").unwrap();
        assert_eq!(
            std::fs::read_dir(bodies).unwrap().count(),
            1,
            "the payload is kept beside"
        );
    }
}

#[tokio::test]
async fn damage_under_way_is_answered_and_mended() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    insert(&store).await;
    on_thread(&store, "PRAGMA wal_checkpoint(TRUNCATE)").await;
    let path = folder.path().join("jobs.db");
    let bytes = vec![0xA5; usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap()];
    std::fs::write(&path, bytes).unwrap();
    on_thread(&store, "PRAGMA shrink_memory").await;
    let id = insert(&store).await;
    assert!(store.get(&id).await.unwrap().is_some());
    assert_eq!(jobs_in(&store, JobState::Queued).await, 1);
}

#[tokio::test]
async fn the_jobs_of_an_older_database_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let old = Connection::open(folder.path().join("jobs.db")).unwrap();
    schema::migrate_to(&old, 1).unwrap();
    old.execute(
        "INSERT INTO jobs (id, state, created, policy) VALUES (?1, 'queued', 1, ?2)",
        (
            JobId::new().as_str(),
            serde_json::to_string(&Policy::default()).unwrap(),
        ),
    )
    .unwrap();
    drop(old);
    let (store, unfinished) = Store::open(folder.path(), OPTIONS).await.unwrap();
    assert_eq!(unfinished.len(), 1);
    assert_eq!(store.unreported().await.unwrap(), []);
    let name = store.name().await.unwrap();
    store.close().await;
    let (again, _) = Store::open(folder.path(), OPTIONS).await.unwrap();
    assert_eq!((again.name().await.unwrap(), name.len()), (name, 32));
}

/// Version 2 is the oldest that is in use.
#[tokio::test]
async fn a_database_of_the_first_release_becomes_one_of_today() {
    let folder = tempfile::tempdir().unwrap();
    let old = Connection::open(folder.path().join("jobs.db")).unwrap();
    schema::migrate_to(&old, 2).unwrap();
    let policy = |dialect| {
        let policy = Policy {
            dialect,
            ..Policy::default()
        };
        serde_json::to_string(&policy).unwrap()
    };
    let rows = [
        ("completed", Some(20), policy(Dialect::EditPlus)),
        ("failed", Some(30), policy(Dialect::Runpod)),
        (
            "queued",
            None,
            "{\"execution_timeout\":null,\"ttl\":null,\"priority\":0,\"webhook\":null}".to_owned(),
        ),
        ("queued", None, "what somebody has edited".to_owned()),
    ];
    std::fs::create_dir(folder.path().join("jobs")).unwrap();
    let mut ids = Vec::new();
    for (n, (state, finished, policy)) in rows.into_iter().enumerate() {
        let id = JobId::new();
        old.execute(
            "INSERT INTO jobs (id, state, created, finished, policy) VALUES (?1, ?2, 1, ?3, ?4)",
            (id.as_str(), state, finished, policy),
        )
        .unwrap();
        let file = format!("{n}.json");
        std::fs::write(folder.path().join("jobs").join(&file), big(b'p')).unwrap();
        old.execute(
            "INSERT INTO bodies (owner, kind, file) VALUES (?1, 'payload', ?2)",
            (id.as_str(), file),
        )
        .unwrap();
        ids.push(id);
    }
    for (n, url) in [
        "https://a.example.com/1",
        "https://a.example.com/2",
        "https://b.example.com/",
    ]
    .into_iter()
    .enumerate()
    {
        old.execute(
            "INSERT INTO webhooks (id, job, url, next_at) VALUES (?1, ?2, ?3, ?4)",
            (format!("m{n}"), ids[1].as_str(), url, i64::try_from(n).unwrap()),
        )
        .unwrap();
        old.execute(
            "INSERT INTO bodies (owner, kind, bytes) VALUES (?1, 'webhook', x'')",
            [format!("m{n}")],
        )
        .unwrap();
    }
    drop(old);

    let (store, unfinished) = Store::open(folder.path(), OPTIONS).await.unwrap();
    assert_eq!(unfinished.iter().map(|job| &job.id).collect::<Vec<_>>(), [&ids[2]]);
    assert_eq!(
        body_files(folder.path()),
        ["1.json", "2.json", "3.json"],
        "that of the completed one is gone"
    );
    let mine = store.list(None, Some(Dialect::EditPlus), 10).await.unwrap();
    assert_eq!(mine.into_iter().map(|job| job.id).collect::<Vec<_>>(), [ids[0].clone()]);
    let due = store.due_webhooks(at(0), &[], 10).await.unwrap();
    assert_eq!(due.into_iter().map(|due| due.id).collect::<Vec<_>>(), ["m0", "m2"]);
    // The request of the failed one counts.
    for id in ["m0", "m1", "m2"] {
        store.webhook_tried(id, None).await.unwrap();
    }
    let since = SystemTime::UNIX_EPOCH;
    assert_eq!(store.expired(since, 5000).await.unwrap(), []);
    assert_eq!(store.expired(since, 4999).await.unwrap()[0].id, ids[1]);
    store.retried(&ids[1], at(1), &Policy::default()).await.unwrap();
    assert_eq!(store.payload(&ids[1]).await.unwrap(), Some(big(b'p')));
}

#[tokio::test]
async fn a_newer_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    on_thread(&store, "PRAGMA user_version = 99").await;
    store.close().await;
    let error = Store::open(folder.path(), OPTIONS).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Newer {
                found: 99,
                known: schema::VERSION,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_full_disk_refuses_writes_alone_and_only_while_it_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), StoreOptions::default()).await.unwrap().0;
    let first = insert(&store).await;
    on_thread(&store, "PRAGMA max_page_count = 40").await;
    let large = || NewJob {
        payload: vec![b'x'; 30_000].into(),
        ..new_job()
    };
    let error = loop {
        if let Err(error) = store.insert(large()).await {
            break error;
        }
    };
    assert!(
        matches!(&error, StoreError::Full { folder: full, .. } if full == folder.path()),
        "{error}"
    );
    let job_error = crate::error::JobError::from(error);
    assert!(job_error.hint.as_deref().unwrap().contains("DATA_DIR"), "{job_error}");
    assert_eq!((job_error.kind.status(), job_error.kind.retryable()), (503, true));
    assert!(store.is_full());

    // One that is too large does not take those down that are committed with it.
    let (small, too_large) = tokio::join!(store.insert(new_job()), store.insert(large()));
    small.unwrap();
    assert!(matches!(too_large, Err(StoreError::Full { .. })));
    assert!(store.get(&first).await.unwrap().is_some());
    store.started(&first, 1).await.unwrap();

    on_thread(&store, "PRAGMA max_page_count = 100000").await;
    store.insert(large()).await.unwrap();
    // It is found out without anybody's writing.
    while store.is_full() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn files_that_no_row_names_go_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let job = NewJob {
        payload: big(1),
        ..new_job()
    };
    store.insert(job.clone()).await.unwrap();
    store.close().await;
    std::fs::write(folder.path().join("jobs/orphan.json"), "x").unwrap();
    std::fs::write(folder.path().join("jobs/half.json.part"), "x").unwrap();
    let store = open(folder.path()).await;
    assert_eq!(body_files(folder.path()).len(), 1);
    assert_eq!(store.payload(&job.id).await.unwrap(), Some(big(1)));
}

#[tokio::test]
async fn a_panic_becomes_an_error_and_undoes_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let id = insert(&store).await;
    let torn = id.clone();
    let panicked = store.write::<(), _>(move |connection| {
        rows::started(connection, &torn, 1)?;
        panic!("on purpose")
    });
    assert!(matches!(panicked.await, Err(StoreError::Stopped)));
    assert_eq!(store.get(&id).await.unwrap().unwrap().state, JobState::Queued);
    store.started(&id, 1).await.unwrap();
}

#[tokio::test]
async fn writes_that_wait_together_are_committed_together() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let (release, gate) = mpsc::channel::<()>();
    let (enter, entered) = mpsc::channel();
    let gated = {
        let store = store.clone();
        tokio::spawn(async move {
            let stand = move |_: &Connection| Ok(enter.send(()).is_ok() && gate.recv().is_ok());
            store.read(stand).await
        })
    };
    tokio::task::yield_now().await;
    entered.recv().unwrap();
    // As long as somebody reads, the log is not emptied.
    let reader = Connection::open(folder.path().join("jobs.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM jobs").unwrap();
    let before = commits(folder.path());
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let (a, b) = tokio::join!(store.insert(new_job()), store.insert(new_job()));
                a.and(b)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    release.send(()).unwrap();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert!(gated.await.unwrap().unwrap());
    assert_eq!(jobs_in(&store, JobState::Queued).await, 16);
    let commits = commits(folder.path()) - before;
    assert_eq!(commits, 1, "sixteen inserts");
}

/// The commits in the log: frames whose header names the size of the database.
fn commits(folder: &Path) -> usize {
    let log = std::fs::read(folder.join("jobs.db-wal")).unwrap_or_default();
    let frames = log.get(32..).unwrap_or_default().chunks_exact(24 + 4096);
    frames.filter(|frame| frame[4..8] != [0; 4]).count()
}
