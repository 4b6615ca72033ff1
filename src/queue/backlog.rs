//! The order of the live jobs: first in, first out, higher priority sooner.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::job::{Dialect, JobId, JobState};

use super::live_job::LiveJob;

/// Finished jobs that are remembered with what `/stream` has not handed out yet. Older ones are in the store.
const REMEMBERED: usize = 256;
/// The bytes of results that are remembered, as they are stored.
const REMEMBERED_BYTES: usize = 32 * 1024 * 1024;

/// Jobs whose images are fetched at the same time.
const FETCHING_AT_ONCE: usize = 32;
/// Of these, the ones that fetch from the same server: one that is slow, or says nothing, holds up its own jobs alone.
const FETCHING_FROM_ONE_HOST: usize = 4;
/// Jobs that wait with fetched images in memory before no more are fetched.
const FETCHED_AHEAD: usize = 4;
/// How many of those that find no room are asked whether an engine would take them now.
const LOOKS_PAST: usize = 256;

type Key = (Reverse<i32>, u64);

/// The live jobs, and those that ended a short while ago.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Those that wait for their turn.
    queued: BTreeMap<Key, Arc<LiveJob>>,
    /// Of those, the ones whose images are still to be fetched.
    to_fetch: BTreeMap<Key, Arc<LiveJob>>,
    /// Of the queued, those whose images are being fetched.
    fetching: Vec<Arc<LiveJob>>,
    /// Of the queued, those whose images were fetched.
    fetched: BTreeMap<Key, Arc<LiveJob>>,
    /// Those that were taken from the backlog and wait in ComfyUI.
    picked: Vec<Arc<LiveJob>>,
    /// All that are known here, each with its key. A job that is retried has a new job; the old one may still be on
    /// its way out, so whatever an job reports of itself counts only while it is the one that is known.
    jobs: HashMap<JobId, (Key, Arc<LiveJob>)>,
    /// Those that ended and are in the store, with the bytes of their results.
    ended: VecDeque<(JobId, usize)>,
    next: u64,
    /// No job is taken for now.
    paused: bool,
    /// How long a job takes, of late.
    pace: Option<Duration>,
    /// How many run at the same time.
    lanes: usize,
}

impl Backlog {
    pub(super) fn add(&mut self, job: Arc<LiveJob>) {
        let key = (Reverse(job.policy.priority), self.next);
        self.next += 1;
        // A job that is retried is remembered under the same id.
        self.ended.retain(|(id, _)| *id != job.id);
        // What an engine elsewhere has needs them no more.
        if job.policy.fetches_images && !job.is_held() {
            self.to_fetch.insert(key, Arc::clone(&job));
        }
        self.put(key, job);
        self.sort_prompts(key);
    }

    fn put(&mut self, key: Key, job: Arc<LiveJob>) {
        self.jobs.insert(job.id.clone(), (key, Arc::clone(&job)));
        self.queued.insert(key, job);
    }

    /// Prompts of ComfyUI's own API stand by their numbers, lower ones first: of the same priority they change places among
    /// themselves, and all others keep theirs. `last` is the place of the one that came last.
    fn sort_prompts(&mut self, mut last: Key) {
        let Some(number) = self.queued.get(&last).and_then(|job| number_of(job)) else {
            return;
        };
        let first = (last.0, 0);
        // Those before are in order.
        let later: Vec<Key> = self
            .queued
            .range(first..last)
            .rev()
            .filter_map(|(key, job)| Some((*key, number_of(job)?)))
            .take_while(|(_, other)| *other > number)
            .map(|(key, _)| key)
            .collect();
        for key in later {
            if let (Some(came), Some(other)) = (self.queued.remove(&last), self.queued.remove(&key)) {
                self.put(last, other);
                self.put(key, came);
            }
            last = key;
        }
    }

    #[cfg(test)]
    fn pick(&mut self) -> Option<Arc<LiveJob>> {
        Some(
            self.pick_by(1, |_| true, |line| (!line.is_empty()).then_some(((), 0)))?
                .0,
        )
    }

    /// The job that `choose` takes of the first so many that are wanted, and what it says to that.
    pub(super) fn pick_by<T>(
        &mut self,
        most: usize,
        wanted: impl Fn(&LiveJob) -> bool,
        choose: impl FnOnce(&[Arc<LiveJob>]) -> Option<(T, usize)>,
    ) -> Option<(Arc<LiveJob>, T)> {
        if self.paused {
            return None;
        }
        // One that was cancelled leaves the backlog when that is stored; it must not run meanwhile. One whose images are not
        // here lets others pass.
        let may_run = |(key, job): &(&Key, &Arc<LiveJob>)| {
            !job.has_ended()
                && wanted(job)
                && !self.to_fetch.contains_key(key)
                && !self.fetching.iter().any(|fetching| is(fetching, job))
        };
        let line = self.queued.iter().filter(may_run).take(most);
        let (keys, line): (Vec<_>, Vec<_>) = line.map(|(key, job)| (*key, Arc::clone(job))).unzip();
        let (said, index) = choose(&line)?;
        let key = keys.get(index)?;
        let job = self.queued.remove(key)?;
        self.fetched.remove(key);
        self.picked.push(Arc::clone(&job));
        Some((job, said))
    }

    /// A job that was picked waits again, in its old place; not where it is over, or was queued anew.
    pub(super) fn give_back(&mut self, job: &Arc<LiveJob>) {
        self.unpick(job);
        if let Some((key, known)) = self.jobs.get(&job.id)
            && is(known, job)
            && !job.has_ended()
        {
            self.queued.insert(*key, Arc::clone(job));
        }
    }

    /// Those that were picked, the first one at the head.
    pub(super) fn picked(&self) -> &[Arc<LiveJob>] {
        &self.picked
    }

    /// So many jobs run at the same time.
    pub(super) fn run_at_once(&mut self, lanes: usize) {
        self.lanes = lanes;
    }

    /// Has no job taken until it is told otherwise. False, and nothing changed, while one is live.
    pub(super) fn pause(&mut self) -> bool {
        let idle = self.unfinished().is_empty();
        self.paused |= idle;
        idle
    }

    /// Jobs are taken again.
    pub(super) fn go_on(&mut self) {
        self.paused = false;
    }

    /// The next job whose images are to be fetched, while there is room for them. Only those count that go before it: one
    /// with a higher priority does not wait for others to have their turn. Where there is no room left, one is fetched that
    /// `has_place`, an engine which would take it now: those before it wait for others.
    pub(super) fn next_to_fetch(&mut self, has_place: impl Fn(&LiveJob) -> bool) -> Option<Arc<LiveJob>> {
        if self.fetching.len() >= FETCHING_AT_ONCE {
            return None;
        }
        let mut busy: HashMap<&str, usize> = HashMap::new();
        for host in self.fetching.iter().flat_map(|job| &job.policy.image_hosts) {
            *busy.entry(host).or_default() += 1;
        }
        let has_room = |host: &String| {
            busy.get(host.as_str())
                .is_none_or(|jobs| *jobs < FETCHING_FROM_ONE_HOST)
        };
        // One that is over needs no images; its end takes it from here.
        let may_fetch = |job: &Arc<LiveJob>| !job.has_ended() && job.policy.image_hosts.iter().all(has_room);
        let end = self.fetched.keys().nth(FETCHED_AHEAD - 1);
        let mut in_room = self
            .to_fetch
            .iter()
            .take_while(|(key, _)| end.is_none_or(|end| *key < end));
        let next = in_room.find(|(_, job)| may_fetch(job)).or_else(|| {
            let ahead = self.fetched.values().chain(&self.fetching);
            if ahead.filter(|job| has_place(job)).count() >= FETCHED_AHEAD {
                return None;
            }
            let mut others = self.to_fetch.iter().filter(|(_, job)| may_fetch(job)).take(LOOKS_PAST);
            others.find(|(_, job)| has_place(job))
        });
        let key = *next?.0;
        let job = self.to_fetch.remove(&key)?;
        self.fetching.push(Arc::clone(&job));
        Some(job)
    }

    /// The job's images are here.
    pub(super) fn fetched(&mut self, job: &LiveJob) {
        if let Some(at) = self.fetching.iter().position(|fetching| is(fetching, job)) {
            let job = self.fetching.swap_remove(at);
            // A job that was retried meanwhile has another job, and another key.
            if let Some((key, known)) = self.jobs.get(&job.id)
                && is(known, &job)
            {
                self.fetched.insert(*key, job);
            }
        }
    }

    pub(super) fn unpick(&mut self, job: &LiveJob) {
        self.picked.retain(|picked| !is(picked, job));
    }

    /// As if the job had ended long ago. One that was queued again is not forgotten.
    pub(super) fn forget(&mut self, id: &JobId) {
        if let Some(at) = self.ended.iter().position(|(ended, _)| ended == id) {
            self.ended.remove(at);
            self.jobs.remove(id);
        }
    }

    /// The job's end is in the store, with a result of so many bytes: it may be forgotten here.
    pub(super) fn stored(&mut self, id: &JobId, bytes: usize) {
        let ended = self.jobs.get(id).is_some_and(|(_, job)| job.has_ended());
        if ended && !self.ended.iter().any(|(ended, _)| ended == id) {
            self.ended.push_back((id.clone(), bytes));
        }
        let mut total: usize = self.ended.iter().map(|(_, bytes)| bytes).sum();
        while self.ended.len() > REMEMBERED || total > REMEMBERED_BYTES {
            let Some((oldest, bytes)) = self.ended.pop_front() else {
                break;
            };
            total -= bytes;
            self.jobs.remove(&oldest);
        }
    }

    /// A job, its place (1 is the next) and the time until its end, as far as it waits.
    pub(super) fn get(&self, id: &JobId) -> Option<(Arc<LiveJob>, Option<usize>, Option<Duration>)> {
        let (key, job) = self.jobs.get(id)?;
        let position = match self.picked.iter().position(|picked| is(picked, job)) {
            Some(index) => Some(index + 1),
            None if self.queued.contains_key(key) => Some(self.picked.len() + self.queued.range(..=key).count()),
            None => None,
        };
        Some((
            Arc::clone(job),
            position,
            position.and_then(|position| self.eta(position)),
        ))
    }

    fn eta(&self, position: usize) -> Option<Duration> {
        let rounds = position.div_ceil(self.lanes.max(1));
        Some(self.pace? * u32::try_from(rounds).unwrap_or(u32::MAX))
    }

    /// Tells those who watch a waiting job its place.
    pub(super) fn tell_positions(&self) {
        for (index, job) in self.picked.iter().chain(self.queued.values()).enumerate() {
            job.place_in_line(index + 1, self.eta(index + 1));
        }
    }

    /// Every job that ComfyUI has not begun.
    pub(super) fn waiting(&self) -> Vec<Arc<LiveJob>> {
        self.picked.iter().chain(self.queued.values()).cloned().collect()
    }

    /// The jobs whose end is not shown: those that run, the one that began first at the head, then those that wait, in their
    /// order, each with its place and the time until its end. One whose end is being stored is among them, so that it is at no
    /// moment neither here nor among those that have ended.
    pub(super) fn line(&self) -> Vec<(Arc<LiveJob>, Option<usize>, Option<Duration>)> {
        let mut running: Vec<_> = self.jobs.values().map(|(_, job)| job).collect();
        running.retain(|job| job.state() == JobState::Running);
        running.sort_by_key(|job| job.begun());
        let waiting = self.picked.iter().chain(self.queued.values()).enumerate();
        let waiting = waiting.filter(|(_, job)| job.state() == JobState::Queued);
        let running = running.into_iter().map(|job| (Arc::clone(job), None, None));
        running
            .chain(waiting.map(|(index, job)| (Arc::clone(job), Some(index + 1), self.eta(index + 1))))
            .collect()
    }

    /// Every job that has not ended.
    pub(super) fn unfinished(&self) -> Vec<Arc<LiveJob>> {
        self.jobs
            .values()
            .filter(|(_, job)| !job.has_ended())
            .map(|(_, job)| Arc::clone(job))
            .collect()
    }

    /// Jobs that wait, and jobs that run.
    pub(super) fn counts(&self) -> (u64, u64) {
        let waiting = self.picked.len() + self.queued.len();
        let running = self
            .jobs
            .values()
            .filter(|(_, job)| job.state() == JobState::Running)
            .count();
        (waiting as u64, running as u64)
    }

    /// The same without warm-ups, which nobody asked for.
    pub(super) fn counts_of_jobs(&self) -> (u64, u64) {
        let jobs = self.jobs.values().filter(|(_, job)| !job.policy.warm_up);
        jobs.fold((0, 0), |(waiting, running), (_, job)| match job.state() {
            JobState::Queued => (waiting + 1, running),
            JobState::Running => (waiting, running + 1),
            _ => (waiting, running),
        })
    }

    /// A job has ended; `execution` is given when it completed.
    pub(super) fn ended(&mut self, job: &LiveJob, execution: Option<Duration>) {
        self.unpick(job);
        self.fetching.retain(|fetching| !is(fetching, job));
        self.fetched.retain(|_, fetched| !is(fetched, job));
        if let Some((key, known)) = self.jobs.get(&job.id)
            && is(known, job)
        {
            self.queued.remove(key);
            self.to_fetch.remove(key);
        }
        if let Some(execution) = execution {
            // The last few jobs count most.
            self.pace = Some(
                self.pace
                    .map_or(execution, |pace| pace.mul_f64(0.7) + execution.mul_f64(0.3)),
            );
        }
    }
}

/// The number of a prompt of ComfyUI's own API. One that ComfyUI may have already keeps its place, and so does what waits for
/// its images.
fn number_of(job: &LiveJob) -> Option<i64> {
    let changes_places = job.policy.dialect == Dialect::Comfyui && job.resume.is_none() && !job.policy.fetches_images;
    let owner = job.policy.prompt.as_ref().filter(|_| changes_places);
    owner.map(|owner| owner.number)
}

/// Whether the two are one; entries of the same job are not.
fn is(one: &Arc<LiveJob>, other: &LiveJob) -> bool {
    std::ptr::eq(Arc::as_ptr(one), other)
}

#[cfg(test)]
#[path = "backlog_tests.rs"]
mod tests;
