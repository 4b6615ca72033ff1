//! The id in a path.

use std::collections::HashMap;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::response::Response;

use crate::dialect::kie;
use crate::error::{ErrorKind, JobError};
use crate::http::error_response;

/// The `{id}` of a path.
#[derive(Debug)]
pub struct Id(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
        path.ok()
            .and_then(|Path(mut path)| path.remove("id"))
            // As KIE's clients know it.
            .map(|id| Self(kie::job_of(&id).to_owned()))
            .ok_or_else(|| {
                error_response(&JobError::new(
                    ErrorKind::NotFound,
                    "The job's id in the path is no text",
                ))
            })
    }
}
