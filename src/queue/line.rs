//! The order of the jobs in hand: first in, first out, higher priority sooner.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::job::{JobId, JobState};

use super::entry::Entry;

/// Finished jobs that are remembered with what `/stream` has not handed out yet. Older ones are in the store.
const REMEMBERED: usize = 256;

type Key = (Reverse<i32>, u64);

/// The jobs in hand, and those that ended a short while ago.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Those that wait for their turn.
    waiting: BTreeMap<Key, Arc<Entry>>,
    /// Those that were taken from the line and wait in ComfyUI.
    picked: Vec<JobId>,
    /// All that are known here, each with its key.
    jobs: HashMap<JobId, (Key, Arc<Entry>)>,
    ended: VecDeque<JobId>,
    next: u64,
    /// How long a job takes, of late.
    pace: Option<Duration>,
}

impl Line {
    pub(super) fn add(&mut self, entry: Arc<Entry>) {
        let key = (Reverse(entry.policy.priority), self.next);
        self.next += 1;
        // A job that is retried is remembered under the same id.
        self.ended.retain(|id| *id != entry.id);
        self.jobs.insert(entry.id.clone(), (key, Arc::clone(&entry)));
        self.waiting.insert(key, entry);
    }

    pub(super) fn pick(&mut self) -> Option<Arc<Entry>> {
        let (_, entry) = self.waiting.pop_first()?;
        self.picked.push(entry.id.clone());
        Some(entry)
    }

    pub(super) fn unpick(&mut self, id: &JobId) {
        self.picked.retain(|picked| picked != id);
    }

    /// A job, its place (1 is the next) and the time until its end, as far as it waits.
    pub(super) fn get(&self, id: &JobId) -> Option<(Arc<Entry>, Option<usize>, Option<Duration>)> {
        let (key, entry) = self.jobs.get(id)?;
        let position = match self.picked.iter().position(|picked| picked == id) {
            Some(index) => Some(index + 1),
            None if self.waiting.contains_key(key) => Some(self.picked.len() + self.waiting.range(..=key).count()),
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
        let picked = self
            .picked
            .iter()
            .filter_map(|id| self.jobs.get(id))
            .map(|(_, entry)| entry);
        for (index, entry) in picked.chain(self.waiting.values()).enumerate() {
            entry.place_in_line(index + 1, self.eta(index + 1));
        }
    }

    /// Every job that ComfyUI has not begun.
    pub(super) fn waiting(&self) -> Vec<Arc<Entry>> {
        let picked = self
            .picked
            .iter()
            .filter_map(|id| self.jobs.get(id))
            .map(|(_, entry)| Arc::clone(entry));
        picked.chain(self.waiting.values().cloned()).collect()
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
        let waiting = self.picked.len() + self.waiting.len();
        let running = self
            .jobs
            .values()
            .filter(|(_, entry)| entry.state() == JobState::Running)
            .count();
        (waiting as u64, running as u64)
    }

    /// A job has ended; `execution` is given when it completed.
    pub(super) fn ended(&mut self, id: &JobId, execution: Option<Duration>) {
        if let Some((key, _)) = self.jobs.get(id) {
            self.waiting.remove(key);
        }
        self.unpick(id);
        self.ended.push_back(id.clone());
        while self.ended.len() > REMEMBERED {
            if let Some(oldest) = self.ended.pop_front() {
                self.jobs.remove(&oldest);
            }
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
        line.unpick(&first.id);
        assert_eq!(
            (line.get(&first.id).unwrap().1, line.get(&second.id).unwrap().1),
            (None, Some(1))
        );
    }

    #[test]
    fn memory_of_ended_jobs_is_bounded() {
        let mut line = Line::default();
        for _ in 0..REMEMBERED * 3 {
            let job = entry(0);
            line.add(Arc::clone(&job));
            line.pick();
            line.ended(&job.id, Some(Duration::from_secs(2)));
        }
        assert_eq!(
            (line.jobs.len(), line.ended.len(), line.waiting.len(), line.picked.len()),
            (REMEMBERED, REMEMBERED, 0, 0)
        );
        assert_eq!(line.pace.map(|pace| pace.as_secs()), Some(2));
    }
}
