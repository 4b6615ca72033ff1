//! Comfy API v2: jobs of our queue, and assets.

use axum::response::{IntoResponse, Response};

use crate::dialect::answer::Answer;
use crate::dialect::comfy_v2::Refusal;
use crate::error::JobError;

/// Why a request is not done.
#[derive(Debug)]
enum Unmet {
    /// As this API says it.
    Refused(Refusal),
    /// As all of ours do; it gets this API's words on its way out.
    Failed(JobError),
}

type Told<T = Answer> = Result<T, Unmet>;

impl From<Refusal> for Unmet {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
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
            Self::Refused(refusal) => refusal.answer().into_response(),
            Self::Failed(error) => error.into_response(),
        }
    }
}
