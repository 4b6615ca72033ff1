//! Jobs of a fleet that another front took in: any front tells of them, by their entries.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::Bytes;

use super::Fleet;
use crate::encoding::STANDARD;
use crate::error::{ErrorKind, JobError};
use crate::fleet::{self, Bound, Entry, State, Trouble};
use crate::job::progress::{Progress, Stage};
use crate::job::{JobId, JobState, JobView, Outcome, Policy};

/// What a job made, and the content of each file of [`Outcome::wanted`]. [`None`]: it is not there any more, or is not what it
/// should be.
pub(super) async fn fetched(bound: &Bound, entry: &Entry) -> Result<Option<(Outcome, Vec<Bytes>)>, Trouble> {
    let Some(parcel) = &entry.made else {
        return Ok(None);
    };
    let Some(text) = bound.unpack(parcel).await? else {
        return Ok(None);
    };
    let Ok(made) = serde_json::from_slice::<fleet::Made>(&text) else {
        return Ok(None);
    };
    if made.outcome.wanted().count() != made.files.len() {
        return Ok(None);
    }
    let mut contents = Vec::with_capacity(made.files.len());
    for file in &made.files {
        match bound.get(&file.object).await? {
            Some(content) if content.len() as u64 == file.bytes => contents.push(content),
            _ => return Ok(None),
        }
    }
    Ok(Some((made.outcome, contents)))
}

impl Fleet {
    /// A job that another front put in. Fails where the broker cannot be asked.
    pub(in crate::engine::remote) async fn foreign(&self, id: &JobId) -> Result<Option<JobView>, JobError> {
        let Some(bound) = self.bound() else {
            return Err(self.not_asked(id, "it cannot be reached"));
        };
        let found = bound.entry(id.as_str()).await;
        let found = found.map_err(|Trouble(why)| self.not_asked(id, &why))?;
        let Some((entry, _)) = found.filter(|(entry, _)| entry.state != State::Withdrawn) else {
            return Ok(None);
        };
        let result = match entry.state {
            State::Done if entry.is_judged => Some(Err(Arc::new(judged_elsewhere(id)))),
            State::Done => match fetched(&bound, &entry).await {
                Ok(fetched) => Some(fetched.map(whole).ok_or_else(|| Arc::new(gone(id)))),
                // It is asked for again.
                Err(Trouble(why)) => {
                    tracing::warn!("the result of the job {id} cannot be had: {why}");
                    return Ok(Some(view(id, &entry, None)));
                }
            },
            State::Failed => {
                let error = entry.error.clone();
                Some(Err(Arc::new(error.unwrap_or_else(|| gone(id)))))
            }
            State::Cancelled => Some(Err(Arc::new(JobError::new(
                ErrorKind::Cancelled,
                "The job was cancelled",
            )))),
            _ => None,
        };
        Ok(Some(view(id, &entry, result)))
    }

    fn not_asked(&self, id: &JobId, why: &str) -> JobError {
        let name = &self.spec().name;
        let message =
            format!("This front has no job {id}, and whether another has it is not known: engine `{name}`: {why}");
        JobError::new(ErrorKind::ComfyUnavailable, message).hint("Ask again in a few seconds.")
    }
}

/// An outcome that holds its files: they are on no disk here.
fn whole((mut outcome, contents): (Outcome, Vec<Bytes>)) -> Arc<Outcome> {
    for (file, content) in outcome.wanted_mut().zip(contents) {
        file.base64 = Some(STANDARD.encode(&content).into());
    }
    outcome.inline = true;
    Arc::new(outcome)
}

fn judged_elsewhere(id: &JobId) -> JobError {
    let message =
        format!("The job {id} has ended; its pictures are judged, and shown by the front that took it in alone");
    JobError::new(ErrorKind::Conflict, message).hint("Ask that front.")
}

fn gone(id: &JobId) -> JobError {
    let message = format!("What the job {id} made is not in the fleet's broker any more");
    JobError::new(ErrorKind::Undeliverable, message).hint("Ask the front that took it in, or send it again.")
}

/// The job as it stands in its entry. It is of no API but RunPod's: the others know their own jobs by more than the id.
fn view(id: &JobId, entry: &Entry, result: Option<Result<Arc<Outcome>, Arc<JobError>>>) -> JobView {
    let at = |ms: u64| UNIX_EPOCH + Duration::from_millis(ms);
    let between =
        |from: u64, to: Option<u64>| Duration::from_millis(to.unwrap_or_else(fleet::now_ms).saturating_sub(from));
    let state = match (entry.state, &result) {
        (State::Done, Some(Ok(_))) => JobState::Completed,
        (State::Done | State::Failed, Some(Err(_))) => JobState::Failed,
        (State::Cancelled, _) => JobState::Cancelled,
        (State::Running | State::Done, _) => JobState::Running,
        _ => JobState::Queued,
    };
    let mut progress = Progress::default();
    match state {
        JobState::Queued => {}
        JobState::Running => progress.stage = Stage::Running,
        _ => progress.end(state == JobState::Completed),
    }
    let created: SystemTime = at(entry.created_ms);
    JobView {
        id: id.clone(),
        policy: Arc::new(Policy::default()),
        state,
        progress,
        position: None,
        created,
        delay: between(entry.created_ms, entry.begun_ms.or(entry.ended_ms)),
        execution: entry
            .begun_ms
            .map(|begun| between(begun, entry.ended_ms))
            .unwrap_or_default(),
        outputs: Arc::default(),
        result,
        entry: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_tells_what_the_entry_does() {
        let id = JobId::new();
        let state = |entry: &Entry, result| view(&id, entry, result).state;
        let queued = Entry::new("front", false);
        assert_eq!(state(&queued, None), JobState::Queued);
        let taken = queued.taken("a", false);
        assert_eq!(state(&taken, None), JobState::Queued);
        let running = taken.running();
        assert_eq!(state(&running, None), JobState::Running);
        let done = running.ended(State::Done, None, None);
        // Its result cannot be had at the moment.
        assert_eq!(state(&done, None), JobState::Running);
        let made = whole((Outcome::default(), Vec::new()));
        assert!(made.inline);
        let completed = view(&id, &done, Some(Ok(made)));
        assert_eq!(
            (completed.state, completed.progress.percent),
            (JobState::Completed, 100)
        );
        assert_eq!(state(&done, Some(Err(Arc::new(gone(&id))))), JobState::Failed);
        assert_eq!(
            state(&running.ended(State::Cancelled, None, None), None),
            JobState::Cancelled
        );
    }
}
