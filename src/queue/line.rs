//! The order of the jobs in hand: first in, first out, higher priority sooner.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::job::{JobId, JobState};

use super::entry::Entry;

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

type Key = (Reverse<i32>, u64);

/// The jobs in hand, and those that ended a short while ago.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Those that wait for their turn.
    queued: BTreeMap<Key, Arc<Entry>>,
    /// Of those, the ones whose images are still to be fetched.
    to_fetch: BTreeMap<Key, Arc<Entry>>,
    /// Of the queued, those whose images are being fetched.
    fetching: Vec<Arc<Entry>>,
    /// Of the queued, those whose images were fetched.
    fetched: BTreeMap<Key, Arc<Entry>>,
    /// Those that were taken from the line and wait in ComfyUI.
    picked: Vec<Arc<Entry>>,
    /// All that are known here, each with its key. A job that is retried has a new entry; the old one may still be on
    /// its way out, so whatever an entry reports of itself counts only while it is the one that is known.
    jobs: HashMap<JobId, (Key, Arc<Entry>)>,
    /// Those that ended and are in the store, with the bytes of their results.
    ended: VecDeque<(JobId, usize)>,
    next: u64,
    /// No job is taken for now.
    paused: bool,
    /// How long a job takes, of late.
    pace: Option<Duration>,
}

impl Line {
    pub(super) fn add(&mut self, entry: Arc<Entry>) {
        let key = (Reverse(entry.policy.priority), self.next);
        self.next += 1;
        // A job that is retried is remembered under the same id.
        self.ended.retain(|(id, _)| *id != entry.id);
        self.jobs.insert(entry.id.clone(), (key, Arc::clone(&entry)));
        if entry.policy.fetches_images {
            self.to_fetch.insert(key, Arc::clone(&entry));
        }
        self.queued.insert(key, entry);
    }

    #[cfg(test)]
    fn pick(&mut self) -> Option<Arc<Entry>> {
        self.pick_if(|_| true)
    }

    /// The next job among those that are wanted.
    pub(super) fn pick_if(&mut self, wanted: impl Fn(&Entry) -> bool) -> Option<Arc<Entry>> {
        if self.paused {
            return None;
        }
        // One that was called off leaves the line when that is stored; it must not run meanwhile. One whose images are not
        // here lets others pass.
        let may_run = |(key, entry): &(&Key, &Arc<Entry>)| {
            !entry.has_ended()
                && wanted(entry)
                && !self.to_fetch.contains_key(key)
                && !self.fetching.iter().any(|fetching| is(fetching, entry))
        };
        let key = *self.queued.iter().find(may_run)?.0;
        let entry = self.queued.remove(&key)?;
        self.fetched.remove(&key);
        self.picked.push(Arc::clone(&entry));
        Some(entry)
    }

    /// Has no job taken until it is told otherwise. False, and nothing changed, while one is in hand.
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
    /// with a higher priority does not wait for others to have their turn.
    pub(super) fn next_to_fetch(&mut self) -> Option<Arc<Entry>> {
        if self.fetching.len() >= FETCHING_AT_ONCE {
            return None;
        }
        let mut busy: HashMap<&str, usize> = HashMap::new();
        for host in self.fetching.iter().flat_map(|entry| &entry.policy.image_hosts) {
            *busy.entry(host).or_default() += 1;
        }
        let has_room = |host: &String| {
            busy.get(host.as_str())
                .is_none_or(|jobs| *jobs < FETCHING_FROM_ONE_HOST)
        };
        // One that is over needs no images; its end takes it from here.
        let may_fetch = |entry: &Arc<Entry>| !entry.has_ended() && entry.policy.image_hosts.iter().all(has_room);
        let key = *self.to_fetch.iter().find(|(_, entry)| may_fetch(entry))?.0;
        if self.fetched.range(..key).count() >= FETCHED_AHEAD {
            return None;
        }
        let entry = self.to_fetch.remove(&key)?;
        self.fetching.push(Arc::clone(&entry));
        Some(entry)
    }

    /// The job's images are here.
    pub(super) fn fetched(&mut self, entry: &Entry) {
        if let Some(at) = self.fetching.iter().position(|fetching| is(fetching, entry)) {
            let entry = self.fetching.swap_remove(at);
            // A job that was retried meanwhile has another entry, and another key.
            if let Some((key, known)) = self.jobs.get(&entry.id)
                && is(known, &entry)
            {
                self.fetched.insert(*key, entry);
            }
        }
    }

    pub(super) fn unpick(&mut self, entry: &Entry) {
        self.picked.retain(|picked| !is(picked, entry));
    }

    /// As if the job had ended long ago. One that was queued anew is not forgotten.
    pub(super) fn forget(&mut self, id: &JobId) {
        if let Some(at) = self.ended.iter().position(|(ended, _)| ended == id) {
            self.ended.remove(at);
            self.jobs.remove(id);
        }
    }

    /// The job's end is in the store, with a result of so many bytes: it may be forgotten here.
    pub(super) fn stored(&mut self, id: &JobId, bytes: usize) {
        let ended = self.jobs.get(id).is_some_and(|(_, entry)| entry.has_ended());
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
    pub(super) fn get(&self, id: &JobId) -> Option<(Arc<Entry>, Option<usize>, Option<Duration>)> {
        let (key, entry) = self.jobs.get(id)?;
        let position = match self.picked.iter().position(|picked| is(picked, entry)) {
            Some(index) => Some(index + 1),
            None if self.queued.contains_key(key) => Some(self.picked.len() + self.queued.range(..=key).count()),
            None => None,
        };
        Some((
            Arc::clone(entry),
            position,
            position.and_then(|position| self.eta(position)),
        ))
    }

    fn eta(&self, position: usize) -> Option<Duration> {
        Some(self.pace? * u32::try_from(position).unwrap_or(u32::MAX))
    }

    /// Tells those who watch a waiting job its place.
    pub(super) fn tell_positions(&self) {
        for (index, entry) in self.picked.iter().chain(self.queued.values()).enumerate() {
            entry.place_in_line(index + 1, self.eta(index + 1));
        }
    }

    /// Every job that ComfyUI has not begun.
    pub(super) fn waiting(&self) -> Vec<Arc<Entry>> {
        self.picked.iter().chain(self.queued.values()).cloned().collect()
    }

    /// Every job that has not ended.
    pub(super) fn unfinished(&self) -> Vec<Arc<Entry>> {
        self.jobs
            .values()
            .filter(|(_, entry)| !entry.has_ended())
            .map(|(_, entry)| Arc::clone(entry))
            .collect()
    }

    /// Jobs that wait, and jobs that run.
    pub(super) fn counts(&self) -> (u64, u64) {
        let waiting = self.picked.len() + self.queued.len();
        let running = self
            .jobs
            .values()
            .filter(|(_, entry)| entry.state() == JobState::Running)
            .count();
        (waiting as u64, running as u64)
    }

    /// A job has ended; `execution` is given when it completed.
    pub(super) fn ended(&mut self, entry: &Entry, execution: Option<Duration>) {
        self.unpick(entry);
        self.fetching.retain(|fetching| !is(fetching, entry));
        self.fetched.retain(|_, fetched| !is(fetched, entry));
        if let Some((key, known)) = self.jobs.get(&entry.id)
            && is(known, entry)
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

/// Whether the two are one; entries of the same job are not.
fn is(one: &Arc<Entry>, other: &Entry) -> bool {
    std::ptr::eq(Arc::as_ptr(one), other)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::job::Policy;

    fn entry(priority: i32) -> Arc<Entry> {
        let policy = Policy {
            priority,
            ..Policy::default()
        };
        Arc::new(Entry::new(JobId::new(), policy, SystemTime::now()))
    }

    #[test]
    fn first_come_first_served_within_a_priority() {
        let mut line = Line::default();
        let jobs = [entry(0), entry(-1), entry(0), entry(5)];
        for job in &jobs {
            line.add(Arc::clone(job));
        }
        assert_eq!(line.get(&jobs[1].id).unwrap().1, Some(4));
        assert_eq!(line.get(&jobs[3].id).unwrap().1, Some(1));
        let order: Vec<JobId> = std::iter::from_fn(|| line.pick())
            .map(|entry| entry.id.clone())
            .collect();
        assert_eq!(order, [3, 0, 2, 1].map(|index: usize| jobs[index].id.clone()));
    }

    #[test]
    fn those_that_wait_in_comfyui_come_before_the_line() {
        let mut line = Line::default();
        let (first, second) = (entry(0), entry(0));
        line.add(Arc::clone(&first));
        line.add(Arc::clone(&second));
        line.pick().unwrap();
        assert_eq!(
            (line.get(&first.id).unwrap().1, line.get(&second.id).unwrap().1),
            (Some(1), Some(2))
        );
        line.unpick(&first);
        assert_eq!(
            (line.get(&first.id).unwrap().1, line.get(&second.id).unwrap().1),
            (None, Some(1))
        );
    }

    #[test]
    fn an_old_entry_of_a_retried_job_does_not_disturb_the_new_one() {
        let mut line = Line::default();
        let old = entry(0);
        line.add(Arc::clone(&old));
        line.pick().unwrap();
        assert!(old.claim_end());
        let new = Arc::new(Entry::new(old.id.clone(), Policy::default(), SystemTime::now()));
        line.add(Arc::clone(&new));
        // The old one's end is told late, and its call-off is over later still.
        line.ended(&old, None);
        line.unpick(&old);
        assert_eq!((line.get(&new.id).unwrap().1, line.counts()), (Some(1), (1, 0)));
        assert!(Arc::ptr_eq(&line.pick().unwrap(), &new));
        line.unpick(&old);
        line.ended(&old, None);
        assert_eq!((line.waiting().len(), line.ended.len()), (1, 0));
        assert!(Arc::ptr_eq(&line.get(&new.id).unwrap().0, &new));
    }

    #[test]
    fn a_job_that_is_being_called_off_is_not_begun() {
        let mut line = Line::default();
        let (first, second) = (entry(0), entry(0));
        line.add(Arc::clone(&first));
        line.add(Arc::clone(&second));
        assert!(first.claim_end());
        assert!(Arc::ptr_eq(&line.pick().unwrap(), &second));
        assert!(line.pick().is_none());
    }

    #[test]
    fn no_job_is_taken_while_the_line_is_paused_and_none_is_kept_out() {
        let mut line = Line::default();
        assert!(line.pause());
        let job = entry(0);
        line.add(Arc::clone(&job));
        assert!(line.pick().is_none());
        line.go_on();
        assert!(!line.pause(), "a job is in hand");
        assert!(Arc::ptr_eq(&line.pick().unwrap(), &job));
    }

    fn fetching_entry(priority: i32) -> Arc<Entry> {
        fetching_from(priority, &[])
    }

    fn fetching_from(priority: i32, hosts: &[&str]) -> Arc<Entry> {
        let policy = Policy {
            priority,
            fetches_images: true,
            image_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..Policy::default()
        };
        Arc::new(Entry::new(JobId::new(), policy, SystemTime::now()))
    }

    #[test]
    fn a_job_without_its_images_lets_others_pass_and_keeps_its_place() {
        let mut line = Line::default();
        let (slow, quick, late) = (fetching_entry(0), entry(0), entry(0));
        for job in [&slow, &quick, &late] {
            line.add(Arc::clone(job));
        }
        assert!(Arc::ptr_eq(&line.next_to_fetch().unwrap(), &slow));
        assert!(line.next_to_fetch().is_none());
        assert!(Arc::ptr_eq(&line.pick().unwrap(), &quick));
        assert_eq!(line.get(&slow.id).unwrap().1, Some(2));
        line.fetched(&slow);
        let order = [line.pick().unwrap(), line.pick().unwrap()];
        assert!(Arc::ptr_eq(&order[0], &slow) && Arc::ptr_eq(&order[1], &late));
        assert!(line.fetched.is_empty() && line.fetching.is_empty() && line.to_fetch.is_empty());
    }

    #[test]
    fn a_few_are_fetched_ahead_and_no_more() {
        let mut line = Line::default();
        let jobs: Vec<_> = (0..FETCHING_AT_ONCE * 2).map(|_| fetching_entry(0)).collect();
        for job in &jobs {
            line.add(Arc::clone(job));
        }
        let begun = |line: &mut Line| std::iter::from_fn(|| line.next_to_fetch()).count();
        assert_eq!(begun(&mut line), FETCHING_AT_ONCE);
        for job in &jobs[..FETCHED_AHEAD] {
            line.fetched(job);
        }
        assert_eq!(begun(&mut line), 0);
        // One goes to ComfyUI, and one is called off.
        assert!(Arc::ptr_eq(&line.pick().unwrap(), &jobs[0]));
        assert!(jobs[7].claim_end());
        line.ended(&jobs[7], None);
        assert_eq!(begun(&mut line), FETCHED_AHEAD + 1);
        for job in &jobs {
            line.fetched(job);
            line.ended(job, None);
        }
        assert!(line.fetched.is_empty() && line.fetching.is_empty() && line.to_fetch.is_empty());
    }

    #[test]
    fn a_silent_server_holds_up_its_own_jobs_alone() {
        let mut line = Line::default();
        let silent: Vec<_> = (0..40).map(|_| fetching_from(0, &["silent:443"])).collect();
        let both = fetching_from(0, &["silent:443", "other:443"]);
        let others = [fetching_from(0, &["other:443"]), fetching_from(-1, &["third:443"])];
        for job in silent.iter().chain([&both]).chain(&others) {
            line.add(Arc::clone(job));
        }
        let begun: Vec<_> = std::iter::from_fn(|| line.next_to_fetch()).collect();
        assert_eq!(begun.len(), FETCHING_FROM_ONE_HOST + others.len());
        for (begun, other) in begun[FETCHING_FROM_ONE_HOST..].iter().zip(&others) {
            assert!(Arc::ptr_eq(begun, other));
            line.fetched(other);
        }
        assert!(Arc::ptr_eq(&line.pick().unwrap(), &others[0]));
        // One of them is given up: the next has its place.
        assert!(silent[0].claim_end());
        line.ended(&silent[0], None);
        assert!(Arc::ptr_eq(
            &line.next_to_fetch().unwrap(),
            &silent[FETCHING_FROM_ONE_HOST]
        ));
        assert!(line.next_to_fetch().is_none());
    }

    #[test]
    fn only_what_ended_and_is_stored_is_forgotten() {
        let mut line = Line::default();
        let (unstored, again) = (entry(0), entry(0));
        for job in [&unstored, &again] {
            line.add(Arc::clone(job));
            line.pick();
            assert!(job.claim_end());
            line.ended(job, None);
        }
        line.forget(&unstored.id);
        assert!(line.get(&unstored.id).is_some());
        line.stored(&again.id, 1);
        line.add(Arc::new(Entry::new(
            again.id.clone(),
            Policy::default(),
            SystemTime::now(),
        )));
        line.forget(&again.id);
        assert!(line.get(&again.id).is_some());
        line.stored(&unstored.id, 1);
        line.forget(&unstored.id);
        assert!(line.get(&unstored.id).is_none());
    }

    #[test]
    fn fetched_images_of_low_priorities_hold_up_no_higher_one() {
        let mut line = Line::default();
        let low: Vec<_> = (0..=FETCHED_AHEAD).map(|_| fetching_entry(-1)).collect();
        for job in &low {
            line.add(Arc::clone(job));
        }
        for job in &low[..FETCHED_AHEAD] {
            assert!(Arc::ptr_eq(&line.next_to_fetch().unwrap(), job));
            line.fetched(job);
        }
        assert!(line.next_to_fetch().is_none());
        let high = fetching_entry(100);
        line.add(Arc::clone(&high));
        assert!(Arc::ptr_eq(&line.next_to_fetch().unwrap(), &high));
        assert!(line.next_to_fetch().is_none());
        line.fetched(&high);
        assert!(Arc::ptr_eq(&line.pick().unwrap(), &high));
    }

    #[test]
    fn memory_of_ended_jobs_is_bounded() {
        let mut line = Line::default();
        for _ in 0..REMEMBERED * 3 {
            let job = entry(0);
            line.add(Arc::clone(&job));
            line.pick();
            assert!(job.claim_end());
            line.ended(&job, Some(Duration::from_secs(2)));
            line.stored(&job.id, 1000);
        }
        assert_eq!(
            (line.jobs.len(), line.ended.len(), line.queued.len(), line.picked.len()),
            (REMEMBERED, REMEMBERED, 0, 0)
        );
        // Large results push more of them out, and one that is too large alone is not remembered at all.
        for (bytes, left) in [
            (REMEMBERED_BYTES - 10_000, 11),
            (REMEMBERED_BYTES, 1),
            (REMEMBERED_BYTES + 1, 0),
        ] {
            let job = entry(0);
            line.add(Arc::clone(&job));
            line.pick();
            assert!(job.claim_end());
            line.ended(&job, None);
            line.stored(&job.id, bytes);
            assert_eq!((line.jobs.len(), line.ended.len()), (left, left), "{bytes}");
        }
        assert_eq!(line.pace.map(|pace| pace.as_secs()), Some(2));
    }
}
