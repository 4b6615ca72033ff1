//! Handlers, one file a way in; and the job's id in their paths.

pub mod comfy_v2;
pub mod comfyui;
pub mod convert;
pub mod docs;
pub mod edit_plus;
pub mod events;
pub mod files;
mod form;
pub mod gradio;
pub mod health;
mod kept_file;
pub mod kie;
pub mod login;
pub mod metrics;
pub mod openai;
pub mod play;
pub mod runpod;
pub mod templates;
mod unmet;

use std::collections::HashMap;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;

use crate::dialect::answer::Answer;
use crate::dialect::kie::job_of;
use crate::error::{ErrorKind, JobError};

/// What stands behind the `?`.
type Parameters = Query<HashMap<String, String>>;
type Answered = Result<Answer, JobError>;

/// The `{id}` of a path.
#[derive(Debug)]
pub struct Id(String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = JobError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, JobError> {
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
        path.ok()
            .and_then(|Path(mut path)| path.remove("id"))
            // As KIE's clients know it.
            .map(|id| Self(job_of(&id).to_owned()))
            .ok_or_else(|| JobError::new(ErrorKind::NotFound, "The job's id in the path is no text"))
    }
}
