//! Files that jobs left, and those that were there before.

use super::*;

/// A file that a job only names.
fn named(filename: &str) -> LeftFile {
    LeftFile {
        claim: Claim::Named,
        ..file(filename, 7)
    }
}

async fn files_of(store: &Store, id: &JobId) -> Vec<String> {
    let id = id.clone();
    let jobs = store.read(move |connection| expiry::with_own_files(connection, vec![id.clone()]));
    let files = jobs.await.unwrap().remove(0).files;
    let mut names: Vec<_> = files.into_iter().map(|file| file.filename).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_job_that_failed_has_its_files_whenever_they_are_told() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path()).await;
    let job = new_job();
    store.insert(job.clone()).await.unwrap();
    assert_eq!(store.left(&job.id, vec![file("early.png", 3)]).await.unwrap(), None);
    let end = Finished {
        files: vec![file("early.png", 5), file("end.png", 5)],
        ..end(JobState::Failed, "{}")
    };
    store.finish(&job.id, end).await.unwrap();
    assert_eq!(store.left(&job.id, vec![file("late.png", 5)]).await.unwrap(), None);
    assert_eq!(files_of(&store, &job.id).await, ["early.png", "end.png", "late.png"]);
    // 15 bytes of files: over a limit of 14 the job goes, and not below it.
    assert!(store.expired(at(0), 15).await.unwrap().is_empty());
    let expired = store.expired(at(0), 14).await.unwrap();
    assert_eq!((expired.len(), expired[0].files.len()), (1, 3));
    remove(&store, std::slice::from_ref(&job.id)).await;
    let too_late = vec![file("too-late.png", 5)];
    assert_eq!(store.left(&job.id, too_late.clone()).await.unwrap(), Some(too_late));
}

#[tokio::test]
async fn what_an_attempt_seems_to_have_left_is_not_taken_from_another_job() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path()).await;
    let (first, second) = (insert(&store).await, insert(&store).await);
    store.left(&first, vec![file("made.png", 5)]).await.unwrap();
    let found = ["made.png", "left.png"].map(|name| LeftFile {
        claim: Claim::Found,
        ..file(name, 5)
    });
    store.left(&second, found.to_vec()).await.unwrap();
    assert_eq!(files_of(&store, &first).await, ["made.png"]);
    assert_eq!(files_of(&store, &second).await, ["left.png"]);
}

#[tokio::test]
async fn what_was_there_before_is_nobodys_unless_an_earlier_job_made_it() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path()).await;
    let (first, second) = (new_job(), new_job());
    for job in [&first, &second] {
        store.insert(job.clone()).await.unwrap();
    }
    store
        .left(&first.id, vec![named("keep.png"), file("made.png", 5)])
        .await
        .unwrap();
    store.finish(&first.id, end(JobState::Failed, "{}")).await.unwrap();
    let end = Finished {
        files: vec![named("keep.png"), named("made.png")],
        ..end(JobState::Failed, "{}")
    };
    store.finish(&second.id, end).await.unwrap();
    // What both have stays with either.
    assert_eq!(files_of(&store, &first.id).await, Vec::<String>::new());
    remove(&store, std::slice::from_ref(&first.id)).await;
    assert_eq!(files_of(&store, &second.id).await, ["made.png"]);
    assert!(store.expired(at(0), 7).await.unwrap().is_empty(), "it does not count");
}

#[tokio::test]
async fn of_jobs_that_go_together_the_last_has_the_file_that_both_wrote() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path()).await;
    for seconds in [100, 200] {
        let id = insert(&store).await;
        let end = Finished {
            at: at(seconds),
            files: vec![file("again.png", 5)],
            ..end(JobState::Failed, "{}")
        };
        store.finish(&id, end).await.unwrap();
    }
    let expired = store.expired(at(1000), u64::MAX).await.unwrap();
    let seen: Vec<_> = expired.iter().map(|job| (job.ended, job.files.len())).collect();
    assert_eq!(seen, [(Some(at(100)), 0), (Some(at(200)), 1)]);
}

#[tokio::test]
async fn a_job_whose_files_change_while_it_is_removed_stays_for_the_next_round() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path()).await;
    for has_webhook in [false, true] {
        let id = insert(&store).await;
        let end = Finished {
            files: vec![file("early.png", 5)],
            webhook: has_webhook.then(|| webhook("m")),
            ..end(JobState::Failed, "{}")
        };
        store.finish(&id, end).await.unwrap();
        let early = store.expired(at(1000), 0).await.unwrap();
        store.left(&id, vec![file("late.png", 5)]).await.unwrap();
        assert!(!store.expire(early).await.unwrap());
        let all = store.expired(at(1000), 0).await.unwrap();
        let names: Vec<_> = all[0].files.iter().map(|file| file.filename.as_str()).collect();
        assert_eq!((names, all[0].stays), (vec!["early.png", "late.png"], has_webhook));
        assert!(store.expire(all).await.unwrap());
        assert_eq!(store.expired(at(1000), 0).await.unwrap(), []);
    }
}

#[tokio::test]
async fn of_two_that_share_a_file_the_one_that_is_removed_last_takes_it_along() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path()).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = insert(&store).await;
        let end = Finished {
            files: vec![file("both.png", 5)],
            ..end(JobState::Failed, "{}")
        };
        store.finish(&id, end).await.unwrap();
        ids.push(id);
    }
    // Both are looked at before either is gone.
    let first = store.expired_now(&ids[0]).await.unwrap().unwrap();
    let second = store.expired_now(&ids[1]).await.unwrap().unwrap();
    assert_eq!((first.files.len(), second.files.len()), (0, 0));
    assert!(store.expire(vec![first]).await.unwrap());
    assert!(!store.expire(vec![second]).await.unwrap());
    let second = store.expired_now(&ids[1]).await.unwrap().unwrap();
    assert_eq!(second.files, [file("both.png", 5)]);
}

#[tokio::test]
async fn of_files_that_are_told_too_late_those_of_others_stay() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path()).await;
    let other = insert(&store).await;
    store.left(&other, vec![file("others.png", 5)]).await.unwrap();
    let found = |name| LeftFile {
        claim: Claim::Found,
        ..file(name, 5)
    };
    let told = vec![
        file("made.png", 5),
        found("found.png"),
        found("others.png"),
        named("before.png"),
    ];
    let own = store.left(&JobId::new(), told).await.unwrap();
    assert_eq!(own, Some(vec![file("made.png", 5), found("found.png")]));
}
