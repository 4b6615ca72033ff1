//! What is kept of jobs that ended, for how long, and what is told of them.

use super::*;

#[tokio::test]
async fn what_is_too_old_or_too_much_goes_oldest_first_and_shared_files_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let files = [
        vec![file("0", 100)],
        vec![file("same", 100)],
        vec![],
        vec![file("same", 100), file("3", 50)],
    ];
    let mut ids = Vec::new();
    for (n, files) in (0..).zip(files) {
        let id = insert(&store).await;
        store.started(&id, 1).await.unwrap();
        let mut end = end(JobState::Completed, "");
        (end.at, end.files) = (at(100 + n), files);
        store.finish(&id, end).await.unwrap();
        ids.push(id);
    }
    insert(&store).await;
    let expired = |time, bytes| {
        let (store, ids) = (store.clone(), ids.clone());
        async move {
            let place = |id: &JobId| ids.iter().position(|other| other == id).unwrap();
            let list = store.expired(time, bytes).await.unwrap();
            list.into_iter()
                .map(|job| {
                    (
                        place(&job.id),
                        job.files.into_iter().map(|file| file.filename).collect::<Vec<_>>(),
                    )
                })
                .collect::<Vec<_>>()
        }
    };
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(expired(at(0), u64::MAX).await, []);
    assert_eq!(expired(at(101), u64::MAX).await, [(0, names(&["0"]))]);
    // The second job's file is the fourth's too.
    assert_eq!(expired(at(102), u64::MAX).await, [(0, names(&["0"])), (1, names(&[]))]);
    assert_eq!(expired(at(0), 350).await, []);
    assert_eq!(expired(at(0), 349).await, [(0, names(&["0"]))]);
    // The third has no files: its removal would make no room.
    let all = [(0, names(&["0"])), (1, names(&[])), (3, names(&["3", "same"]))];
    assert_eq!(expired(at(0), 0).await, all);

    remove(&store, &[ids[0].clone(), ids[1].clone()]).await;
    assert_eq!(expired(at(0), 0).await, [(3, names(&["3", "same"]))]);
    remove(&store, &ids).await;
    let left = store.list(None, None, 10).await.unwrap();
    assert_eq!(
        left.into_iter().map(|job| job.state).collect::<Vec<_>>(),
        [JobState::Queued]
    );
}

#[tokio::test]
async fn a_webhook_stays_until_it_is_delivered_or_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    assert_eq!(
        store.next_webhook_after(SystemTime::UNIX_EPOCH, &[]).await.unwrap(),
        None
    );
    let mut ids = Vec::new();
    for n in 0..2 {
        let id = insert(&store).await;
        let mut end = end(JobState::Cancelled, "");
        (end.at, end.webhook) = (at(n), Some(webhook(&format!("m{n}"))));
        store.finish(&id, end).await.unwrap();
        ids.push(id);
    }
    assert_eq!(
        store.next_webhook_after(SystemTime::UNIX_EPOCH, &[]).await.unwrap(),
        Some(at(0))
    );
    assert_eq!(store.due_webhooks(at(0), &[], 10).await.unwrap().len(), 1);
    store.webhook_tried("m0", Some(at(50))).await.unwrap();

    store.close().await;
    let store = open(folder.path()).await;
    assert_eq!(
        store.next_webhook_after(SystemTime::UNIX_EPOCH, &[]).await.unwrap(),
        Some(at(1))
    );
    let due = store.due_webhooks(at(50), &[], 10).await.unwrap();
    let seen: Vec<_> = due
        .iter()
        .map(|due| (due.id.as_str(), due.url.as_str(), due.attempts))
        .collect();
    let (second, first) = ("https://m1.example.com/hook", "https://m0.example.com/hook");
    assert_eq!(seen, [("m1", second, 0), ("m0", first, 1)]);
    assert_eq!(store.webhook_job("m1").await.unwrap(), Some(ids[1].clone()));
    for id in ["m0", "m1", "no such"] {
        store.webhook_tried(id, None).await.unwrap();
    }
    assert_eq!(
        store.next_webhook_after(SystemTime::UNIX_EPOCH, &[]).await.unwrap(),
        None
    );
    assert_eq!(store.webhook_job("m1").await.unwrap(), None);
}

#[tokio::test]
async fn a_job_stays_until_its_webhook_is_delivered_and_only_its_files_make_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut ids = Vec::new();
    for n in 0..2 {
        let id = insert(&store).await;
        let told = Finished {
            at: at(100 + n),
            files: vec![file(&format!("{n}"), 100)],
            webhook: (n == 0).then(|| webhook("m")),
            ..end(JobState::Failed, "why")
        };
        store.finish(&id, told).await.unwrap();
        ids.push(id);
    }
    let seen = |expired: &[Expired]| {
        expired
            .iter()
            .map(|job| (job.id.clone(), job.stays))
            .collect::<Vec<_>>()
    };
    // The younger goes first, since nobody is to be told of it.
    let expired = store.expired(at(0), 150).await.unwrap();
    assert_eq!(seen(&expired), [(ids[1].clone(), false)]);
    let expired = store.expired(at(1000), u64::MAX).await.unwrap();
    assert_eq!(seen(&expired), [(ids[1].clone(), false)]);
    let expired = store.expired(at(1000), 50).await.unwrap();
    assert_eq!(seen(&expired), [(ids[1].clone(), false), (ids[0].clone(), true)]);
    assert_eq!(expired[1].files, [file("0", 100)]);
    store.expire(expired).await.unwrap();
    assert_eq!(store.get(&ids[1]).await.unwrap(), None);
    assert_eq!(
        store.get(&ids[0]).await.unwrap().unwrap().result,
        Some(Bytes::from_static(b"why"))
    );
    assert_eq!(store.expired(at(1000), 0).await.unwrap(), []);
    assert_eq!(store.due_webhooks(at(1000), &[], 10).await.unwrap().len(), 1);
    // Its request took room too.
    assert!(matches!(
        store.retried(&ids[0], at(0), &Policy::default()).await,
        Err(StoreError::NoRequest(_))
    ));

    store.webhook_tried("m", None).await.unwrap();
    let expired = store.expired(at(1000), 0).await.unwrap();
    assert_eq!(seen(&expired), [(ids[0].clone(), false)]);
    store.expire(expired).await.unwrap();
    assert_eq!(store.list(None, None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_job_that_its_owner_removes_takes_its_webhook_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let id = insert(&store).await;
    let mut end = end(JobState::Cancelled, "");
    end.webhook = Some(webhook("m"));
    store.finish(&id, end).await.unwrap();
    remove(&store, &[id]).await;
    assert!(store.due_webhooks(at(1000), &[], 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn however_many_webhooks_wait_for_one_receiver_the_others_get_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for n in 0..300 {
        let id = insert(&store).await;
        let mut end = end(JobState::Cancelled, "");
        end.at = at(n);
        end.webhook = Some(WebhookRow {
            id: format!("m{n}"),
            url: match n {
                297 => "http://example.com:8080/hook".parse().unwrap(),
                298 => "http://example.org/".parse().unwrap(),
                _ => "https://hanging.example.com/hook".parse().unwrap(),
            },
        });
        store.finish(&id, end).await.unwrap();
    }
    let ids = async |busy: &[&str], limit| -> Vec<String> {
        let busy: Vec<String> = busy.iter().map(ToString::to_string).collect();
        let due = store.due_webhooks(at(298), &busy, limit).await.unwrap();
        due.into_iter().map(|due| due.id).collect()
    };
    assert_eq!(ids(&[], 8).await, ["m0", "m297", "m298"]);
    assert_eq!(ids(&[], 2).await, ["m0", "m297"]);
    assert_eq!(ids(&["hanging.example.com:443", "example.org:80"], 8).await, ["m297"]);
    // What waits for a busy receiver is not waited for.
    let busy = ["hanging.example.com:443".to_owned()];
    assert_eq!(store.next_webhook_after(at(298), &[]).await.unwrap(), Some(at(299)));
    assert_eq!(store.next_webhook_after(at(298), &busy).await.unwrap(), None);
}

#[tokio::test]
async fn a_request_goes_with_the_end_unless_it_may_be_run_again_and_counts_where_it_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut ids = Vec::new();
    for state in [JobState::Completed, JobState::Failed, JobState::TimedOut] {
        let job = NewJob {
            payload: big(b's'),
            ..new_job()
        };
        let id = job.id.clone();
        store.insert(job).await.unwrap();
        store.finish(&id, end(state, "small")).await.unwrap();
        ids.push(id);
    }
    assert_eq!(store.payload(&ids[0]).await.unwrap(), None);
    assert_eq!(body_files(folder.path()).len(), 2);
    // It begins anew, and its request is there for it.
    store.retried(&ids[2], at(50), &Policy::default()).await.unwrap();
    assert_eq!(store.payload(&ids[2]).await.unwrap(), Some(big(b's')));
    let kept = |expired: Vec<Expired>| expired.into_iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(kept(store.expired(at(0), 5000).await.unwrap()), []);
    assert_eq!(kept(store.expired(at(0), 4999).await.unwrap()), [ids[1].clone()]);
    assert!(matches!(
        store.retried(&ids[0], at(50), &Policy::default()).await,
        Err(StoreError::IllegalStep { .. })
    ));
}

#[tokio::test]
async fn what_is_deleted_cannot_be_read_from_the_disk() {
    const KEY: &[u8] = b"a key of comfy.org";
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    // One lies in a page of the table, one in pages of its own.
    for payload in [KEY.to_vec(), KEY.repeat(800)] {
        let job = NewJob {
            payload: payload.into(),
            ..new_job()
        };
        let id = job.id.clone();
        let inline = StoreOptions::default().inline_bytes;
        let store = Store {
            inline_bytes: inline,
            ..store.clone()
        };
        store.insert(job).await.unwrap();
        store.finish(&id, end(JobState::Completed, "done")).await.unwrap();
    }
    let holds_it = |name: &str| {
        let bytes = std::fs::read(folder.path().join(name)).unwrap_or_default();
        bytes.windows(KEY.len()).any(|window| window == KEY)
    };
    // The log is emptied in a quiet moment.
    while holds_it("jobs.db-wal") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!holds_it("jobs.db"));
}

#[tokio::test]
async fn a_job_stays_until_the_platform_was_told_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut ends = Vec::new();
    for _ in 0..2 {
        let id = insert(&store).await;
        store.started(&id, 1).await.unwrap();
        let told = Finished {
            unreported: true,
            files: vec![file(&format!("{id}.png"), 10)],
            ..end(JobState::Completed, "done")
        };
        assert!(store.finish(&id, told).await.unwrap());
        ends.push(id);
    }
    let waiting = async |store: &Store| -> Vec<JobId> {
        let jobs = store.unreported().await.unwrap();
        jobs.into_iter().map(|job| job.id).collect()
    };
    assert_eq!(waiting(&store).await, ends);
    assert_eq!(store.expired(at(1000), 0).await.unwrap(), []);
    remove(&store, &ends).await;

    store.close().await;
    let store = open(folder.path()).await;
    assert_eq!(waiting(&store).await, ends);
    store.reported(&ends[0]).await.unwrap();
    assert_eq!(waiting(&store).await, ends[1..]);
    let expired = store.expired(at(1000), 0).await.unwrap();
    assert_eq!(expired.len(), 1);
    assert_eq!(expired[0].id, ends[0]);
}
