//! When an engine rests: it refuses jobs, cannot be reached, or fails one after the other.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::engine::Standing;
use crate::error::JobError;

/// Failures in a row after which an engine rests.
const MOST_FAILURES: u32 = 3;
/// How long it rests then, and how long it does not answer; doubled each time that the next job fails too.
const FIRST_REST: Duration = Duration::from_secs(30);
/// The longest of these rests.
const LONGEST_REST: Duration = Duration::from_mins(10);
/// How long one rests that cannot be reached, the first time.
const UNREACHED_REST: Duration = Duration::from_secs(5);
/// How long one rests that says it has too much to do, where it does not say how long.
const LIMITED_REST: Duration = Duration::from_secs(30);
/// The shortest that it is given.
const SHORTEST_REST: Duration = Duration::from_secs(1);
/// The longest that it may ask for.
const LONGEST_ASKED: Duration = Duration::from_hours(1);
/// How long one rests that has no worker for a job.
const NO_WORKERS_REST: Duration = Duration::from_secs(5);
/// How long one rests whose key or whose money does not do.
const BARRED_REST: Duration = Duration::from_mins(10);

/// Why an engine takes no jobs for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It cannot be reached.
    Unreached,
    /// It has too much to do, for so long as it says.
    Limited(Option<Duration>),
    /// It has no worker that could take a job.
    NoWorkers,
    /// It refuses our key, our money is used up, or it is not there at all.
    Barred,
}

/// Whether an engine rests. At most one job is tried at it after a rest, until one goes well.
#[derive(Debug, Default)]
pub(super) struct Rest(watch::Sender<State>);

#[derive(Debug, Clone, Default)]
struct State {
    /// Jobs in a row that it failed.
    failures: u32,
    /// Rests in a row.
    rests: u32,
    until: Option<Instant>,
    /// Whether it rests for want of workers alone.
    lacks_workers: bool,
    /// When its last rest began.
    since: Option<Instant>,
    /// Why it rests, or rested last; [`None`] since a job went well.
    reason: Option<JobError>,
}

impl State {
    fn standing(&self) -> Standing {
        match self.until {
            Some(until) if until > Instant::now() => Standing::Away,
            _ => Standing::Ready,
        }
    }

    fn rests_for(&mut self, rest: Duration, reason: &JobError) {
        let until = Instant::now() + rest;
        // Jobs that were on their way fail for the same reason.
        if self.standing() == Standing::Ready {
            self.rests += 1;
        }
        self.until = Some(self.until.map_or(until, |before| before.max(until)));
        self.since = Some(Instant::now());
        self.lacks_workers = false;
        self.reason = Some(reason.clone());
    }
}

/// The `number`-th rest in a row, from 1 on.
fn doubled(first: Duration, number: u32) -> Duration {
    let factor = 2_u32.saturating_pow(number.saturating_sub(1).min(16));
    first.saturating_mul(factor).min(LONGEST_REST)
}

impl Rest {
    pub(super) fn standing(&self) -> Standing {
        self.0.borrow().standing()
    }

    /// How long it still rests, and why.
    pub(super) fn left(&self) -> Option<(Duration, JobError)> {
        let state = self.0.borrow();
        let left = state.until?.checked_duration_since(Instant::now())?;
        (!left.is_zero())
            .then(|| (left, state.reason.clone()))
            .and_then(|(left, reason)| Some((left, reason?)))
    }

    /// Whether it rests for want of workers alone: its queue takes jobs all the same.
    pub(super) fn lacks_workers(&self) -> bool {
        let state = self.0.borrow();
        state.lacks_workers && state.standing() == Standing::Away
    }

    /// Whether it is tried with one job, since none has gone well since its last rest.
    pub(super) fn is_tried(&self) -> bool {
        self.0.borrow().reason.is_some()
    }

    /// It takes no jobs for a while. Gives how long.
    pub(super) fn begins(&self, cause: Cause, reason: &JobError) -> Duration {
        let mut rest = Duration::ZERO;
        self.0.send_modify(|state| {
            rest = match cause {
                Cause::Unreached => doubled(UNREACHED_REST, state.rests + 1),
                // One that asks for nothing is given a little more each time.
                Cause::Limited(asked) => asked
                    .unwrap_or(LIMITED_REST)
                    .clamp(doubled(SHORTEST_REST, state.rests + 1).min(LIMITED_REST), LONGEST_ASKED),
                Cause::NoWorkers => NO_WORKERS_REST,
                Cause::Barred => BARRED_REST,
            };
            let has_no_other_cause = state.lacks_workers || state.standing() == Standing::Ready;
            state.rests_for(rest, reason);
            if cause == Cause::NoWorkers {
                state.lacks_workers = has_no_other_cause;
                // It answers.
                state.rests = 0;
            }
        });
        rest
    }

    /// It failed a job, by its own fault. Gives how long it rests now, where it does.
    pub(super) fn failed(&self, reason: &JobError) -> Option<Duration> {
        let mut rest = None;
        self.0.send_modify(|state| {
            state.failures += 1;
            // One that was tried after a rest, and failed, rests again at once.
            if state.failures >= MOST_FAILURES {
                let long = doubled(FIRST_REST, state.failures - MOST_FAILURES + 1);
                state.rests_for(long, reason);
                rest = Some(long);
            }
        });
        rest
    }

    /// It took a job that was sent at this time: it can be reached, and has room.
    pub(super) fn took(&self, sent: Instant) {
        self.0.send_if_modified(|state| {
            let is_later = state.since.is_none_or(|since| since < sent);
            let is_news = is_later && state.failures < MOST_FAILURES && state.reason.is_some();
            if is_news {
                (state.until, state.reason, state.rests) = (None, None, 0);
                state.lacks_workers = false;
            }
            is_news
        });
    }

    /// A job went well there.
    pub(super) fn succeeded(&self) {
        self.0.send_if_modified(|state| {
            let is_news = state.failures > 0 || state.reason.is_some();
            if is_news {
                *state = State::default();
            }
            is_news
        });
    }

    /// Resolves when it stands otherwise.
    pub(super) async fn until_not(&self, standing: Standing) {
        let mut told = self.0.subscribe();
        loop {
            let until = {
                let state = told.borrow_and_update();
                if state.standing() != standing {
                    return;
                }
                state.until.filter(|_| standing == Standing::Away)
            };
            tokio::select! {
                _ = told.changed() => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
        }
    }

    /// Resolves when it rests, with the reason.
    pub(super) async fn until_away(&self) -> JobError {
        loop {
            self.until_not(Standing::Ready).await;
            if let Some((_, reason)) = self.left() {
                return reason;
            }
            // Its rest may be over by now.
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason() -> JobError {
        JobError::internal("it fails")
    }

    #[tokio::test(start_paused = true)]
    async fn three_failures_in_a_row_make_it_rest_and_a_success_clears_them() {
        let rest = Rest::default();
        assert_eq!((rest.failed(&reason()), rest.failed(&reason())), (None, None));
        rest.succeeded();
        assert_eq!((rest.failed(&reason()), rest.failed(&reason())), (None, None));
        assert_eq!(rest.standing(), Standing::Ready);
        assert_eq!(rest.failed(&reason()), Some(FIRST_REST));
        assert_eq!(rest.standing(), Standing::Away);
        tokio::time::sleep(FIRST_REST).await;
        assert_eq!(rest.standing(), Standing::Ready);
        // One job is tried, and fails.
        assert!(rest.is_tried());
        rest.took(Instant::now());
        assert!(rest.is_tried());
        assert_eq!(rest.failed(&reason()), Some(2 * FIRST_REST));
        for _ in 0..10 {
            rest.failed(&reason());
        }
        assert!(rest.left().unwrap().0 <= LONGEST_REST);
        rest.succeeded();
        assert_eq!((rest.standing(), rest.is_tried()), (Standing::Ready, false));
    }

    #[tokio::test(start_paused = true)]
    async fn it_rests_as_long_as_it_asks() {
        let rest = Rest::default();
        let seven = Duration::from_secs(7);
        assert_eq!(rest.begins(Cause::Limited(Some(seven)), &reason()), seven);
        let begun = Instant::now();
        assert_eq!(rest.until_away().await, reason());
        rest.until_not(Standing::Away).await;
        assert_eq!(begun.elapsed().as_secs(), 7);
        // That job was sent before.
        rest.took(begun);
        assert!(rest.is_tried());
        rest.took(Instant::now());
        assert!(!rest.is_tried());
        let none = Cause::Limited(Some(Duration::ZERO));
        assert_eq!(rest.begins(none, &reason()), SHORTEST_REST);
        assert_eq!(
            rest.begins(Cause::Limited(Some(Duration::MAX)), &reason()),
            LONGEST_ASKED
        );
    }

    #[tokio::test(start_paused = true)]
    async fn want_of_workers_is_told_from_other_causes() {
        let rest = Rest::default();
        assert_eq!(rest.begins(Cause::NoWorkers, &reason()), NO_WORKERS_REST);
        assert!(rest.lacks_workers());
        rest.begins(Cause::NoWorkers, &reason());
        assert!(rest.lacks_workers());
        tokio::time::sleep(NO_WORKERS_REST).await;
        assert!(!rest.lacks_workers());
        // It was reached meanwhile.
        assert_eq!(rest.begins(Cause::Unreached, &reason()), UNREACHED_REST);
        rest.begins(Cause::NoWorkers, &reason());
        assert!(!rest.lacks_workers());
        // What comes later is another cause, too.
        rest.succeeded();
        rest.begins(Cause::NoWorkers, &reason());
        while rest.failed(&reason()).is_none() {}
        assert!(!rest.lacks_workers());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_cannot_be_reached_is_tried_less_and_less_often() {
        let rest = Rest::default();
        let mut rests = Vec::new();
        for _ in 0..4 {
            let long = rest.begins(Cause::Unreached, &reason());
            rests.push(long.as_secs());
            // Others that were on their way find the same.
            rest.begins(Cause::Unreached, &reason());
            rest.until_not(Standing::Away).await;
        }
        assert_eq!(rests, [5, 10, 20, 40]);
    }
}
