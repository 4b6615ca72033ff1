//! Why a request of a dialect is not done, where that has words of its own for some of it.

use axum::response::{IntoResponse, Response};

use crate::dialect::answer::Answer;
use crate::dialect::{comfy_v2, comfyui};
use crate::error::JobError;

/// Why a request is not done.
#[derive(Debug)]
pub(super) enum Unmet {
    /// As its dialect says it.
    Refused(Answer),
    /// As we do; it gets the dialect's shape on its way out.
    Failed(JobError),
}

/// What a route answers.
pub(super) type Told<T = Answer> = Result<T, Unmet>;

impl From<comfyui::Refusal> for Unmet {
    fn from(refusal: comfyui::Refusal) -> Self {
        Self::Refused(refusal.answer())
    }
}

impl From<comfy_v2::Refusal> for Unmet {
    fn from(refusal: comfy_v2::Refusal) -> Self {
        Self::Refused(refusal.answer())
    }
}

impl From<JobError> for Unmet {
    fn from(error: JobError) -> Self {
        Self::Failed(error)
    }
}

impl IntoResponse for Unmet {
    fn into_response(self) -> Response {
        match self {
            Self::Refused(answer) => answer.into_response(),
            Self::Failed(error) => error.into_response(),
        }
    }
}
