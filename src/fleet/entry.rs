//! A job as it stands in the broker's key-value bucket, and who may do what with it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Parcel, VERSION};
use crate::error::JobError;

/// A job's entry. Its key is the job's id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// [`VERSION`] of who wrote it.
    pub version: u32,
    /// The front that put it in. There is none in what a release wrote that knew of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Where the job is in its life.
    pub state: State,
    /// How often the front has put it in: a message of another round is an old one.
    pub round: u32,
    /// How often workers have taken it, in this round.
    pub attempt: u32,
    /// How many workers were lost under it, in this round.
    pub lost: u32,
    /// The worker that has it, or had it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// When it was put in, in milliseconds since 1970.
    pub created_ms: u64,
    /// When a ComfyUI began with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Whether its pictures are judged before they are shown: then its own front alone shows them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_judged: bool,
    /// What it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Parcel>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits for a worker.
    Queued,
    /// A worker has it.
    Taken,
    /// A ComfyUI is at it.
    Running,
    /// It made what it was asked for.
    Done,
    /// It could not.
    Failed,
    /// Its owner cancelled it.
    Cancelled,
    /// Its front took it back before anybody had it.
    Withdrawn,
}

impl State {
    /// Whether no worker may take it any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled | Self::Withdrawn)
    }
}

/// What a worker does with a job that it was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing: the message is an old one, or the job is over.
    Drop,
    /// It takes it.
    Take,
    /// It asks this worker first, which has it.
    Ask(String),
}

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Entry {
    /// One that this front puts in for the first time.
    pub fn new(owner: &str, is_judged: bool) -> Self {
        Self {
            version: VERSION,
            owner: Some(owner.to_owned()),
            state: State::Queued,
            round: 1,
            attempt: 0,
            lost: 0,
            worker: None,
            created_ms: now_ms(),
            begun_ms: None,
            ended_ms: None,
            is_judged,
            made: None,
            error: None,
        }
    }

    /// The job that its front puts in once more under this id.
    #[must_use]
    pub fn again(&self, owner: &str, is_judged: bool) -> Self {
        Self {
            round: self.round + 1,
            ..Self::new(owner, is_judged)
        }
    }

    /// Whether this front has put it in.
    pub fn is_owned_by(&self, front: &str) -> bool {
        self.owner.as_deref().is_none_or(|owner| owner == front)
    }

    /// What a worker does that was handed out a message of this round.
    pub fn look(&self, round: u32) -> Look {
        if self.round != round || self.state.is_over() {
            return Look::Drop;
        }
        match (self.state, &self.worker) {
            (State::Taken | State::Running, Some(worker)) => Look::Ask(worker.clone()),
            _ => Look::Take,
        }
    }

    /// Taken by a worker; `is_lost`: the one that had it is.
    #[must_use]
    pub fn taken(&self, worker: &str, is_lost: bool) -> Self {
        Self {
            state: State::Taken,
            attempt: self.attempt + 1,
            lost: self.lost + u32::from(is_lost),
            worker: Some(worker.to_owned()),
            begun_ms: None,
            ..self.clone()
        }
    }

    /// Whether it is still that of a worker's attempt.
    pub fn is_of(&self, worker: &str, round: u32, attempt: u32) -> bool {
        let is_at_work = matches!(self.state, State::Taken | State::Running);
        is_at_work && self.had_by(worker, round, attempt)
    }

    /// Whether a worker's attempt was the last one, over or not.
    pub fn had_by(&self, worker: &str, round: u32, attempt: u32) -> bool {
        self.worker.as_deref() == Some(worker) && self.round == round && self.attempt == attempt
    }

    /// A ComfyUI has begun with it.
    #[must_use]
    pub fn running(&self) -> Self {
        Self {
            state: State::Running,
            begun_ms: self.begun_ms.or_else(|| Some(now_ms())),
            ..self.clone()
        }
    }

    /// Its worker gives it back; `is_lost`: because it cannot do it, which counts.
    #[must_use]
    pub fn given_back(&self, is_lost: bool) -> Self {
        Self {
            state: State::Queued,
            lost: self.lost + u32::from(is_lost),
            worker: None,
            begun_ms: None,
            ..self.clone()
        }
    }

    /// It has ended so.
    #[must_use]
    pub fn ended(&self, state: State, made: Option<Parcel>, error: Option<JobError>) -> Self {
        Self {
            state,
            ended_ms: Some(now_ms()),
            made,
            error,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_takes_what_nobody_has_and_asks_who_has_it() {
        let entry = Entry::new("front", false);
        assert_eq!(entry.look(1), Look::Take);
        assert_eq!(entry.look(2), Look::Drop);
        let taken = entry.taken("a", false);
        assert_eq!((taken.attempt, taken.lost), (1, 0));
        assert_eq!(taken.look(1), Look::Ask("a".to_owned()));
        assert_eq!(taken.running().look(1), Look::Ask("a".to_owned()));
        let over = taken.running().taken("b", true);
        assert_eq!((over.attempt, over.lost, over.begun_ms), (2, 1, None));
        assert!(over.is_of("b", 1, 2) && !over.is_of("a", 1, 1));
        for state in [State::Done, State::Failed, State::Cancelled, State::Withdrawn] {
            let ended = over.ended(state, None, None);
            assert_eq!(ended.look(1), Look::Drop);
            assert!(!ended.is_of("b", 1, 2) && ended.had_by("b", 1, 2));
            let again = ended.again("front", false);
            assert_eq!((again.look(2), again.look(1)), (Look::Take, Look::Drop));
            assert_eq!((again.attempt, again.lost), (0, 0));
        }
    }

    #[test]
    fn a_job_that_is_given_back_counts_only_where_it_could_not_be_done() {
        let taken = Entry::new("front", false).taken("a", false);
        let back = taken.given_back(false);
        assert_eq!((back.look(1), back.attempt, back.lost), (Look::Take, 1, 0));
        assert_eq!(taken.given_back(true).lost, 1);
        assert_eq!(back.taken("a", false).attempt, 2);
    }

    #[test]
    fn an_entry_belongs_to_the_front_that_put_it_in() {
        let entry = Entry::new("front", false);
        let again = entry
            .taken("a", false)
            .ended(State::Done, None, None)
            .again("front", true);
        assert!(again.is_judged);
        for entry in [entry, again] {
            assert!(entry.is_owned_by("front") && !entry.is_owned_by("other"));
        }
        // As a release wrote it that knew of no owners.
        let text = r#"{"version": 1, "state": "queued", "round": 1, "attempt": 0, "lost": 0, "created_ms": 1}"#;
        assert!(serde_json::from_str::<Entry>(text).unwrap().is_owned_by("front"));
    }

    #[test]
    fn an_entry_is_read_back() {
        let error = JobError::internal("no").hint("Try again.");
        let entry = Entry::new("front", true)
            .taken("a", false)
            .running()
            .ended(State::Failed, None, Some(error));
        let text = serde_json::to_vec(&entry).unwrap();
        assert_eq!(serde_json::from_slice::<Entry>(&text).unwrap(), entry);
    }
}
