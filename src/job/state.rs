//! The one life of a job: queued → running → completed | failed | cancelled | timed out.

use std::fmt;

/// Where a job is in its life. Every dialect says it in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for its turn.
    Queued,
    /// It is in ComfyUI's hands, or on its way to or from there.
    Running,
    /// It made what it was asked for.
    Completed,
    /// It could not.
    Failed,
    /// Its owner called it off.
    Cancelled,
    /// Its time was over.
    TimedOut,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
    ];

    /// Whether nothing can follow but a retry that the owner asks for.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// Whether `next` may follow: the one place that knows the legal steps.
    ///
    /// A queued job may complete: that it began may not have been stored. A running job goes back to the queue when the
    /// worker was ended under it. A job that did not complete may be
    /// queued again by its owner (RunPod's `/retry`).
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Queued => next != Self::Queued,
            Self::Running => next != Self::Running,
            Self::Failed | Self::TimedOut | Self::Cancelled => next == Self::Queued,
            Self::Completed => false,
        }
    }

    /// As the store and the logs write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }

    /// Reads what [`Self::as_str`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_completed_stays_so_and_final_states_lead_only_back_to_the_queue() {
        for state in JobState::ALL {
            assert!(!JobState::Completed.may_become(state));
            assert_eq!(JobState::parse(state.as_str()), Some(state));
            for next in JobState::ALL {
                if state.is_final() && state.may_become(next) {
                    assert_eq!(next, JobState::Queued);
                }
            }
        }
    }
}
