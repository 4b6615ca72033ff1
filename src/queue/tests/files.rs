//! Files that jobs left, and when they go.

use super::ends::lock_database;
use super::*;
use crate::executor::{Claim, LeftFile};
use crate::job::OutputFolder;
use crate::queue::expiry::{Pause, remove_what_is_old, take_down};

/// A file in the output folder, as one that a job has just made.
fn made(bench: &Bench, filename: &str) -> (std::path::PathBuf, Vec<LeftFile>) {
    let output = bench.data.path().join("output");
    std::fs::create_dir_all(&output).unwrap();
    let path = output.join(filename);
    std::fs::write(&path, "12345").unwrap();
    let left = LeftFile {
        folder: OutputFolder::Output,
        subfolder: String::new(),
        filename: filename.to_owned(),
        bytes: 5,
        claim: Claim::Made,
    };
    (path, vec![left])
}

#[tokio::test]
async fn files_that_are_told_before_the_end_is_stored_are_stored_with_it() {
    let bench = Bench::start().await;
    let id = bench.submit(Policy::default()).await.unwrap();
    let entry = bench.entry(&id);
    let (path, left) = made(&bench, "late.png");
    let other = lock_database(&bench);
    bench.queue.cancel(id.as_str()).await.unwrap();
    // Its execution is still on its way out.
    take_down(&bench.queue.0, &entry, left).await;
    drop(other);
    bench.until_stored(&id, JobState::Cancelled).await;
    bench.queue.remove(id.as_str()).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_that_was_written_long_after_a_job_has_only_its_name() {
    let bench = Bench::start().await;
    for by_hand in [true, false] {
        let id = bench.submit(Policy::default()).await.unwrap();
        let (of_job, left) = made(&bench, "a_00001_.png");
        take_down(&bench.queue.0, &bench.entry(&id), left).await;
        let (of_user, left) = made(&bench, "a_00002_.png");
        take_down(&bench.queue.0, &bench.entry(&id), left).await;
        bench.complete(&id).await;
        let file = std::fs::File::options().write(true).open(&of_user).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_mins(10)).unwrap();
        if by_hand {
            bench.queue.remove(id.as_str()).await.unwrap();
        } else {
            remove_what_is_old(&bench.queue.0, Duration::ZERO).await;
        }
        assert!(!of_job.exists() && of_user.exists());
    }
}

#[tokio::test]
async fn a_file_that_is_found_when_its_job_is_long_gone_goes_however_the_job_ended() {
    let bench = Bench::start().await;
    for completes in [true, false] {
        let id = bench.submit(Policy::default()).await.unwrap();
        let entry = bench.entry(&id);
        if completes {
            bench.complete(&id).await;
        } else {
            bench.queue.cancel(id.as_str()).await.unwrap();
        }
        remove_what_is_old(&bench.queue.0, Duration::ZERO).await;
        let (path, mut left) = made(&bench, "a.png");
        left[0].claim = Claim::Found;
        take_down(&bench.queue.0, &entry, left).await;
        assert!(!path.exists(), "{completes}");
    }
}

#[tokio::test]
async fn a_job_that_the_store_lost_while_it_ran_keeps_its_files() {
    let bench = Bench::start().await;
    let id = bench.submit(Policy::default()).await.unwrap();
    bench.begin(&id).await.unwrap();
    let entry = bench.entry(&id);
    let other = lock_database(&bench);
    other.execute_batch("DELETE FROM jobs; COMMIT").unwrap();
    drop(other);
    let (path, left) = made(&bench, "a.png");
    take_down(&bench.queue.0, &entry, left).await;
    assert!(path.exists());
    bench.complete(&id).await;
    let (path, left) = made(&bench, "b.png");
    take_down(&bench.queue.0, &entry, left).await;
    assert!(path.exists(), "its result is shown");
}

#[tokio::test]
async fn no_folder_is_removed_while_a_job_is_in_hand_and_nobody_waits_for_that() {
    let bench = Bench::start().await;
    let id = bench.submit(Policy::default()).await.unwrap();
    assert!(Pause::begin(&bench.queue.0).is_none());
    assert_eq!(bench.queue.counts().in_queue, 1);
    bench.queue.cancel(id.as_str()).await.unwrap();
    assert!(Pause::begin(&bench.queue.0).is_some());
    assert_eq!(bench.queue.counts().in_queue, 0);
}

#[tokio::test]
async fn files_of_a_job_go_with_it_however_it_ended_and_those_told_too_late_go_at_once() {
    let bench = Bench::start().await;
    let output = bench.data.path().join("output/sub");
    std::fs::create_dir_all(&output).unwrap();
    for name in [
        "before.png",
        "early.png",
        "late.png",
        "too-late.png",
        "found-late.png",
        "others.png",
    ] {
        std::fs::write(output.join(name), "12345").unwrap();
    }
    let left = |filename: &str, claim| {
        vec![LeftFile {
            folder: OutputFolder::Output,
            subfolder: "sub".to_owned(),
            filename: filename.to_owned(),
            bytes: 5,
            claim,
        }]
    };
    let id = bench.submit(Policy::default()).await.unwrap();
    let core = &bench.queue.0;
    let (entry, ..) = core.live(&id).unwrap();
    take_down(core, &entry, left("early.png", Claim::Made)).await;
    take_down(core, &entry, left("before.png", Claim::Named)).await;
    bench.queue.cancel(id.as_str()).await.unwrap();
    // Its execution is still on its way out.
    take_down(core, &entry, left("late.png", Claim::Made)).await;
    let other = bench.submit(Policy::default()).await.unwrap();
    let (of_other, ..) = core.live(&other).unwrap();
    take_down(core, &of_other, left("others.png", Claim::Made)).await;
    bench.queue.remove(id.as_str()).await.unwrap();
    take_down(core, &entry, left("too-late.png", Claim::Made)).await;
    take_down(core, &entry, left("found-late.png", Claim::Found)).await;
    take_down(core, &entry, left("others.png", Claim::Found)).await;
    take_down(core, &entry, left("before.png", Claim::Named)).await;
    let there = std::fs::read_dir(&output)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut there: Vec<_> = there.collect();
    there.sort();
    assert_eq!(there, ["before.png", "others.png"]);
}
