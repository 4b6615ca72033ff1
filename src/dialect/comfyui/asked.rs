//! What the lists are asked for: `GET /history` and `GET /api/jobs`.

use std::collections::HashMap;

use serde_json::json;

use super::refusal::Refusal;
use crate::dialect::answer::Answer;
use crate::echo;
use crate::job::JobState;

/// The most entries that one answer lists, unless more are asked for.
const USUAL: usize = 1_000;
/// The most that are listed whatever is asked for. ComfyUI remembers no more.
const MOST: usize = 10_000;

/// A part of `/history`, which lists the oldest first.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// How many entries at most.
    pub max_items: usize,
    /// How many of the oldest to pass over; [`None`]: the newest are asked for.
    pub offset: Option<usize>,
}

impl Page {
    /// Reads `?max_items=` and `?offset=`.
    pub fn parse(parameters: &HashMap<String, String>) -> Result<Self, Refusal> {
        let number = |name: &str| {
            let Some(text) = parameters.get(name) else {
                return Ok(None);
            };
            let number: Option<i64> = text.trim().parse().ok();
            let wrong = || Refusal::request(format!("{name} must be a whole number"), echo::cut(text));
            number.map(Some).ok_or_else(wrong)
        };
        let max_items = number("max_items")?.map(|items| usize::try_from(items).unwrap_or_default());
        // A negative one is none.
        let offset = number("offset")?.and_then(|offset| usize::try_from(offset).ok());
        Ok(Self {
            max_items: max_items.unwrap_or(USUAL).min(MOST),
            offset,
        })
    }
}

/// How a job is, as `/api/jobs` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It waits.
    Pending,
    /// It runs.
    InProgress,
    /// It made what it was asked for.
    Completed,
    /// It could not.
    Failed,
    /// It was interrupted.
    Cancelled,
}

impl Status {
    /// Every status, in ComfyUI's order.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::InProgress,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The status of a job in this state.
    pub fn of(state: JobState) -> Self {
        match state {
            JobState::Queued => Self::Pending,
            JobState::Running => Self::InProgress,
            JobState::Completed => Self::Completed,
            JobState::Failed | JobState::TimedOut => Self::Failed,
            JobState::Cancelled => Self::Cancelled,
        }
    }

    /// The states of ended jobs that have this status.
    pub fn ended(self) -> &'static [JobState] {
        match self {
            Self::Pending | Self::InProgress => &[],
            Self::Completed => &[JobState::Completed],
            Self::Failed => &[JobState::Failed, JobState::TimedOut],
            Self::Cancelled => &[JobState::Cancelled],
        }
    }

    /// ComfyUI's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What `/api/jobs` sorts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// When they came.
    Created,
    /// How long they ran.
    Duration,
}

/// What `GET /api/jobs` is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct JobsAsked {
    /// Jobs of these.
    pub statuses: Vec<Status>,
    /// Of this workflow of the page alone.
    pub workflow_id: Option<String>,
    /// Their order.
    pub order: Order,
    /// The least first.
    pub ascending: bool,
    /// How many.
    pub limit: Option<usize>,
    /// How many to pass over.
    pub offset: usize,
}

impl JobsAsked {
    /// Reads the query; the error is ComfyUI's answer.
    pub fn parse(parameters: &HashMap<String, String>) -> Result<Self, Answer> {
        let error = |text: String| Answer::json(400, &json!({ "error": text }));
        let get = |name: &str| parameters.get(name).map(String::as_str);
        let words: Vec<String> = get("status")
            .unwrap_or_default()
            .split(',')
            .map(|word| word.trim().to_lowercase())
            .filter(|word| !word.is_empty())
            .collect();
        let status_of = |word: &String| Status::ALL.into_iter().find(|status| status.as_str() == word);
        let invalid: Vec<_> = words.iter().filter(|word| status_of(word).is_none()).cloned().collect();
        if !invalid.is_empty() {
            let all = Status::ALL.map(Status::as_str).join(", ");
            let invalid = echo::cut(&invalid.join(", "));
            return Err(error(format!(
                "Invalid status value(s): {invalid}. Valid values: {all}"
            )));
        }
        let statuses = match get("status") {
            None | Some("") => Status::ALL.to_vec(),
            Some(_) => words.iter().filter_map(status_of).collect(),
        };
        let order = match get("sort_by").map(str::to_lowercase).as_deref() {
            None | Some("created_at") => Order::Created,
            Some("execution_duration") => Order::Duration,
            Some(_) => return Err(error("sort_by must be 'created_at' or 'execution_duration'".to_owned())),
        };
        let ascending = match get("sort_order").map(str::to_lowercase).as_deref() {
            None | Some("desc") => false,
            Some("asc") => true,
            Some(_) => return Err(error("sort_order must be 'asc' or 'desc'".to_owned())),
        };
        let integer = |name: &str| {
            let number = get(name).map(|text| text.trim().parse::<i64>());
            number
                .transpose()
                .map_err(|_| error(format!("{name} must be an integer")))
        };
        let limit = match integer("limit")? {
            None => None,
            Some(limit) if limit > 0 => Some(usize::try_from(limit).unwrap_or(usize::MAX)),
            Some(_) => return Err(error("limit must be a positive integer".to_owned())),
        };
        let offset = integer("offset")?.map_or(0, |offset| usize::try_from(offset).unwrap_or_default());
        Ok(Self {
            statuses,
            workflow_id: get("workflow_id").filter(|id| !id.is_empty()).map(str::to_owned),
            order,
            ascending,
            limit,
            offset,
        })
    }

    /// How many jobs the answer has at most.
    pub fn most(&self) -> usize {
        self.limit.unwrap_or(USUAL).min(MOST)
    }
}
