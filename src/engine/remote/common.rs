//! What every engine elsewhere has, however it is spoken to: what the list says of it, and when it rests.

use super::meaning::{self, Refusal};
use super::rest::Rest;
use super::ticket::Ticket;
use super::{EngineSpec, RemoteState};
use crate::config::Secret;
use crate::error::JobError;
use crate::executor::elsewhere::{Again, Failed, Then};

/// What every engine elsewhere has.
#[derive(Debug)]
pub(super) struct Common {
    /// What the list says of it.
    pub(super) spec: EngineSpec,
    /// When it takes no jobs.
    pub(super) rest: Rest,
}

impl Common {
    pub(super) fn new(spec: EngineSpec) -> Self {
        Self {
            spec,
            rest: Rest::default(),
        }
    }

    /// How it stands.
    pub(super) fn state(&self) -> RemoteState {
        let left = self.rest.left();
        RemoteState {
            name: self.spec.name.clone(),
            kind: self.spec.kind.as_str(),
            state: if left.is_some() { "resting" } else { "ready" },
            group: self.spec.group,
            capacity: self.spec.capacity,
            rests_s: left.as_ref().map(|(left, _)| left.as_secs() + 1),
            reason: left.map(|(_, reason)| reason.full_text()),
            cost: self.spec.cost.clone(),
        }
    }

    /// Whether a ticket is of a job that was sent here.
    pub(super) fn has_sold(&self, ticket: &Ticket) -> bool {
        ticket.is_at(self.spec.kind.as_str(), self.spec.url.as_str())
    }

    /// The ticket of a job that is sent here.
    pub(super) fn ticket(&self, id: Option<String>) -> Ticket {
        Ticket {
            kind: self.spec.kind.as_str().to_owned(),
            url: self.spec.url.to_string(),
            id,
        }
    }

    /// The same without our key, which an engine may repeat.
    pub(super) fn blanked(&self, mut error: JobError) -> JobError {
        if let Some(key) = self.spec.key.as_ref().map(Secret::reveal)
            && error.message.contains(key)
        {
            error.message = error.message.replace(key, "***");
        }
        error
    }

    /// A job whose fate nobody knows.
    pub(super) fn unknown(&self, job: &str, error: &JobError) -> Failed {
        let name = &self.spec.name;
        let error = self.blanked(error.clone());
        self.note_failure(&error);
        let error = meaning::unknown(name, job, &error);
        if self.spec.sends_unknown_again {
            tracing::warn!(
                job.id = job,
                "{}; it may go to another engine, as `unknown` of engine `{name}` says",
                error.message
            );
            return Failed {
                error,
                then: Then::Elsewhere(Again::Unknown),
            };
        }
        error.into()
    }

    /// A job that was done with here, by the engine's own fault.
    pub(super) fn over(&self, error: JobError) -> Failed {
        self.note_failure(&error);
        Failed::elsewhere(error)
    }

    fn note_failure(&self, error: &JobError) {
        if let Some(rest) = self.rest.failed(error) {
            let (name, seconds) = (&self.spec.name, rest.as_secs());
            tracing::warn!(
                "engine `{name}` has failed several jobs in a row and rests for {seconds} s: {}",
                error.full_text()
            );
        }
    }

    /// What comes of a job that the engine did not take, or of which nobody knows.
    pub(super) fn refused(&self, job: &str, refusal: Refusal) -> Failed {
        match refusal {
            Refusal::Rests(cause, error) => {
                let error = self.blanked(error);
                let (name, seconds) = (&self.spec.name, self.rest.begins(cause, &error).as_secs());
                tracing::warn!("engine `{name}` rests for {seconds} s: {}", error.full_text());
                Failed {
                    error,
                    then: Then::Elsewhere(Again::Rested),
                }
            }
            Refusal::Faulty(error) => {
                let error = self.blanked(error);
                self.note_failure(&error);
                Failed {
                    error,
                    then: Then::Elsewhere(Again::Once),
                }
            }
            Refusal::OfJob(error) => self.blanked(error).into(),
            Refusal::Unknown(error) => self.unknown(job, &error),
        }
    }
}
