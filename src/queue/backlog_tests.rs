//! The order of jobs, and what is fetched for them.

use std::time::SystemTime;

use super::*;
use crate::job::{Policy, PromptOwner};

fn live(priority: i32) -> Arc<LiveJob> {
    let policy = Policy {
        priority,
        ..Policy::default()
    };
    Arc::new(LiveJob::new(JobId::new(), policy, SystemTime::now()))
}

#[test]
fn first_come_first_served_within_a_priority() {
    let mut backlog = Backlog::default();
    let jobs = [live(0), live(-1), live(0), live(5)];
    for job in &jobs {
        backlog.add(Arc::clone(job));
    }
    assert_eq!(backlog.get(&jobs[1].id).unwrap().1, Some(4));
    assert_eq!(backlog.get(&jobs[3].id).unwrap().1, Some(1));
    let order: Vec<JobId> = std::iter::from_fn(|| backlog.pick())
        .map(|job| job.id.clone())
        .collect();
    assert_eq!(order, [3, 0, 2, 1].map(|index: usize| jobs[index].id.clone()));
}

fn prompt(priority: i32, number: i64) -> LiveJob {
    let policy = Policy {
        priority,
        dialect: Dialect::Comfyui,
        prompt: Some(Box::new(PromptOwner {
            number,
            ..PromptOwner::default()
        })),
        ..Policy::default()
    };
    LiveJob::new(JobId::new(), policy, SystemTime::now())
}

#[test]
fn prompts_of_a_priority_stand_by_their_numbers_and_others_keep_their_places() {
    let mut backlog = Backlog::default();
    let resumed = prompt(0, 100).resuming(Some("a prompt".to_owned()), None, 1);
    let jobs = [resumed, prompt(0, 10), prompt(0, 20), prompt(0, 30), prompt(1, -1)].map(Arc::new);
    let others = [live(0), live(0), live(1)];
    for job in [
        &jobs[0], &jobs[1], &others[0], &jobs[2], &others[1], &jobs[3], &jobs[4], &others[2],
    ] {
        backlog.add(Arc::clone(job));
    }
    let [early, same, front, late] = [prompt(0, 15), prompt(0, 20), prompt(1, -2), prompt(0, 40)].map(Arc::new);
    for job in [&early, &same, &front, &late] {
        backlog.add(Arc::clone(job));
    }
    let expected = [
        &front, &others[2], &jobs[4], &jobs[0], &jobs[1], &others[0], &early, &others[1], &jobs[2], &same, &jobs[3],
        &late,
    ];
    for (index, job) in expected.iter().enumerate() {
        assert_eq!(backlog.get(&job.id).unwrap().1, Some(index + 1), "{index}");
    }
    // One that moved is taken out from where it is.
    assert!(jobs[2].claim_end());
    backlog.ended(&jobs[2], None);
    let order: Vec<_> = std::iter::from_fn(|| backlog.pick()).collect();
    let left: Vec<_> = expected.into_iter().filter(|job| !Arc::ptr_eq(job, &jobs[2])).collect();
    assert_eq!(order.len(), left.len());
    assert!(order.iter().zip(left).all(|(one, other)| Arc::ptr_eq(one, other)));
}

#[test]
fn a_job_is_in_the_line_until_its_end_is_shown() {
    let mut backlog = Backlog::default();
    let jobs = [live(0), live(0), live(0)];
    for job in &jobs {
        backlog.add(Arc::clone(job));
    }
    // One runs, one waits in ComfyUI, one in the line.
    assert!(backlog.pick().unwrap().begin());
    backlog.unpick(&jobs[0]);
    backlog.pick().unwrap();
    let line =
        |backlog: &Backlog| -> Vec<JobId> { backlog.line().into_iter().map(|(job, ..)| job.id.clone()).collect() };
    let all: Vec<_> = jobs.iter().map(|job| job.id.clone()).collect();
    for job in &jobs {
        assert!(job.claim_end());
    }
    assert_eq!(line(&backlog), all);
    assert!(backlog.pick().is_none());
    for job in &jobs {
        backlog.ended(job, None);
        let error = Arc::new(crate::error::JobError::internal("over"));
        job.show_end(JobState::Failed, (Duration::ZERO, Duration::ZERO), Err(error), None);
    }
    assert_eq!(line(&backlog), []);
}

#[test]
fn those_that_wait_in_comfyui_come_before_the_line() {
    let mut backlog = Backlog::default();
    let (first, second) = (live(0), live(0));
    backlog.add(Arc::clone(&first));
    backlog.add(Arc::clone(&second));
    backlog.pick().unwrap();
    assert_eq!(
        (backlog.get(&first.id).unwrap().1, backlog.get(&second.id).unwrap().1),
        (Some(1), Some(2))
    );
    backlog.unpick(&first);
    assert_eq!(
        (backlog.get(&first.id).unwrap().1, backlog.get(&second.id).unwrap().1),
        (None, Some(1))
    );
}

#[test]
fn an_old_entry_of_a_retried_job_does_not_disturb_the_new_one() {
    let mut backlog = Backlog::default();
    let old = live(0);
    backlog.add(Arc::clone(&old));
    backlog.pick().unwrap();
    assert!(old.claim_end());
    let new = Arc::new(LiveJob::new(old.id.clone(), Policy::default(), SystemTime::now()));
    backlog.add(Arc::clone(&new));
    // The old one's end is told late, and its call-off is over later still.
    backlog.ended(&old, None);
    backlog.unpick(&old);
    assert_eq!((backlog.get(&new.id).unwrap().1, backlog.counts()), (Some(1), (1, 0)));
    assert!(Arc::ptr_eq(&backlog.pick().unwrap(), &new));
    backlog.unpick(&old);
    backlog.ended(&old, None);
    assert_eq!((backlog.waiting().len(), backlog.ended.len()), (1, 0));
    assert!(Arc::ptr_eq(&backlog.get(&new.id).unwrap().0, &new));
}

#[test]
fn a_job_that_is_being_called_off_is_not_begun() {
    let mut backlog = Backlog::default();
    let (first, second) = (live(0), live(0));
    backlog.add(Arc::clone(&first));
    backlog.add(Arc::clone(&second));
    assert!(first.claim_end());
    assert!(Arc::ptr_eq(&backlog.pick().unwrap(), &second));
    assert!(backlog.pick().is_none());
}

#[test]
fn no_job_is_taken_while_the_line_is_paused_and_none_is_kept_out() {
    let mut backlog = Backlog::default();
    assert!(backlog.pause());
    let job = live(0);
    backlog.add(Arc::clone(&job));
    assert!(backlog.pick().is_none());
    backlog.go_on();
    assert!(!backlog.pause(), "a job is in flight");
    assert!(Arc::ptr_eq(&backlog.pick().unwrap(), &job));
}

fn fetching(priority: i32) -> Arc<LiveJob> {
    fetching_from(priority, &[])
}

fn fetching_from(priority: i32, hosts: &[&str]) -> Arc<LiveJob> {
    let policy = Policy {
        priority,
        fetches_images: true,
        image_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        ..Policy::default()
    };
    Arc::new(LiveJob::new(JobId::new(), policy, SystemTime::now()))
}

#[test]
fn a_job_without_its_images_lets_others_pass_and_keeps_its_place() {
    let mut backlog = Backlog::default();
    let (slow, quick, late) = (fetching(0), live(0), live(0));
    for job in [&slow, &quick, &late] {
        backlog.add(Arc::clone(job));
    }
    assert!(Arc::ptr_eq(&backlog.next_to_fetch(|_| false).unwrap(), &slow));
    assert!(backlog.next_to_fetch(|_| false).is_none());
    assert!(Arc::ptr_eq(&backlog.pick().unwrap(), &quick));
    assert_eq!(backlog.get(&slow.id).unwrap().1, Some(2));
    backlog.fetched(&slow);
    let order = [backlog.pick().unwrap(), backlog.pick().unwrap()];
    assert!(Arc::ptr_eq(&order[0], &slow) && Arc::ptr_eq(&order[1], &late));
    assert!(backlog.fetched.is_empty() && backlog.fetching.is_empty() && backlog.to_fetch.is_empty());
}

#[test]
fn a_few_are_fetched_ahead_and_no_more() {
    let mut backlog = Backlog::default();
    let jobs: Vec<_> = (0..FETCHING_AT_ONCE * 2).map(|_| fetching(0)).collect();
    for job in &jobs {
        backlog.add(Arc::clone(job));
    }
    let begun = |backlog: &mut Backlog| std::iter::from_fn(|| backlog.next_to_fetch(|_| false)).count();
    assert_eq!(begun(&mut backlog), FETCHING_AT_ONCE);
    for job in &jobs[..FETCHED_AHEAD] {
        backlog.fetched(job);
    }
    assert_eq!(begun(&mut backlog), 0);
    // One goes to ComfyUI, and one is cancelled.
    assert!(Arc::ptr_eq(&backlog.pick().unwrap(), &jobs[0]));
    assert!(jobs[7].claim_end());
    backlog.ended(&jobs[7], None);
    assert_eq!(begun(&mut backlog), FETCHED_AHEAD + 1);
    for job in &jobs {
        backlog.fetched(job);
        backlog.ended(job, None);
    }
    assert!(backlog.fetched.is_empty() && backlog.fetching.is_empty() && backlog.to_fetch.is_empty());
}

#[test]
fn a_silent_server_holds_up_its_own_jobs_alone() {
    let mut backlog = Backlog::default();
    let silent: Vec<_> = (0..40).map(|_| fetching_from(0, &["silent:443"])).collect();
    let both = fetching_from(0, &["silent:443", "other:443"]);
    let others = [fetching_from(0, &["other:443"]), fetching_from(-1, &["third:443"])];
    for job in silent.iter().chain([&both]).chain(&others) {
        backlog.add(Arc::clone(job));
    }
    let begun: Vec<_> = std::iter::from_fn(|| backlog.next_to_fetch(|_| false)).collect();
    assert_eq!(begun.len(), FETCHING_FROM_ONE_HOST + others.len());
    for (begun, other) in begun[FETCHING_FROM_ONE_HOST..].iter().zip(&others) {
        assert!(Arc::ptr_eq(begun, other));
        backlog.fetched(other);
    }
    assert!(Arc::ptr_eq(&backlog.pick().unwrap(), &others[0]));
    // One of them is given up: the next has its place.
    assert!(silent[0].claim_end());
    backlog.ended(&silent[0], None);
    assert!(Arc::ptr_eq(
        &backlog.next_to_fetch(|_| false).unwrap(),
        &silent[FETCHING_FROM_ONE_HOST]
    ));
    assert!(backlog.next_to_fetch(|_| false).is_none());
}

#[test]
fn only_what_ended_and_is_stored_is_forgotten() {
    let mut backlog = Backlog::default();
    let (unstored, again) = (live(0), live(0));
    for job in [&unstored, &again] {
        backlog.add(Arc::clone(job));
        backlog.pick();
        assert!(job.claim_end());
        backlog.ended(job, None);
    }
    backlog.forget(&unstored.id);
    assert!(backlog.get(&unstored.id).is_some());
    backlog.stored(&again.id, 1);
    backlog.add(Arc::new(LiveJob::new(
        again.id.clone(),
        Policy::default(),
        SystemTime::now(),
    )));
    backlog.forget(&again.id);
    assert!(backlog.get(&again.id).is_some());
    backlog.stored(&unstored.id, 1);
    backlog.forget(&unstored.id);
    assert!(backlog.get(&unstored.id).is_none());
}

#[test]
fn fetched_images_of_low_priorities_hold_up_no_higher_one() {
    let mut backlog = Backlog::default();
    let low: Vec<_> = (0..=FETCHED_AHEAD).map(|_| fetching(-1)).collect();
    for job in &low {
        backlog.add(Arc::clone(job));
    }
    for job in &low[..FETCHED_AHEAD] {
        assert!(Arc::ptr_eq(&backlog.next_to_fetch(|_| false).unwrap(), job));
        backlog.fetched(job);
    }
    assert!(backlog.next_to_fetch(|_| false).is_none());
    let high = fetching(100);
    backlog.add(Arc::clone(&high));
    assert!(Arc::ptr_eq(&backlog.next_to_fetch(|_| false).unwrap(), &high));
    assert!(backlog.next_to_fetch(|_| false).is_none());
    backlog.fetched(&high);
    assert!(Arc::ptr_eq(&backlog.pick().unwrap(), &high));
}

#[test]
fn fetched_images_for_a_full_engine_hold_up_no_job_for_a_free_one() {
    let mut backlog = Backlog::default();
    let full: Vec<_> = (0..FETCHED_AHEAD + 2).map(|_| fetching(0)).collect();
    let free = [fetching(0), fetching(0)];
    for job in full.iter().chain(&free) {
        backlog.add(Arc::clone(job));
    }
    for job in &full[..FETCHED_AHEAD] {
        assert!(Arc::ptr_eq(&backlog.next_to_fetch(|_| false).unwrap(), job));
        backlog.fetched(job);
    }
    let has_place = |job: &LiveJob| free.iter().any(|free| is(free, job));
    for job in &free {
        assert!(Arc::ptr_eq(&backlog.next_to_fetch(has_place).unwrap(), job));
    }
    assert!(backlog.next_to_fetch(has_place).is_none());
}

#[test]
fn memory_of_ended_jobs_is_bounded() {
    let mut backlog = Backlog::default();
    for _ in 0..REMEMBERED * 3 {
        let job = live(0);
        backlog.add(Arc::clone(&job));
        backlog.pick();
        assert!(job.claim_end());
        backlog.ended(&job, Some(Duration::from_secs(2)));
        backlog.stored(&job.id, 1000);
    }
    assert_eq!(
        (
            backlog.jobs.len(),
            backlog.ended.len(),
            backlog.queued.len(),
            backlog.picked.len()
        ),
        (REMEMBERED, REMEMBERED, 0, 0)
    );
    // Large results push more of them out, and one that is too large alone is not remembered at all.
    for (bytes, left) in [
        (REMEMBERED_BYTES - 10_000, 11),
        (REMEMBERED_BYTES, 1),
        (REMEMBERED_BYTES + 1, 0),
    ] {
        let job = live(0);
        backlog.add(Arc::clone(&job));
        backlog.pick();
        assert!(job.claim_end());
        backlog.ended(&job, None);
        backlog.stored(&job.id, bytes);
        assert_eq!((backlog.jobs.len(), backlog.ended.len()), (left, left), "{bytes}");
    }
    assert_eq!(backlog.pace.map(|pace| pace.as_secs()), Some(2));
}
