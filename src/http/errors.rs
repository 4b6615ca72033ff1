//! Errors in the shape of the API that was asked.
//!
//! Handlers and layers answer with a [`JobError`], which stays beside its answer. Here, where the path is known, it gets the
//! words of that path's API: also one that arose before a handler was reached, such as a wrong key or an unknown route.

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::edit_port::EDIT;
use super::log::RequestId;
use super::route::ROOT;
use crate::dialect::answer::Answer;
use crate::dialect::{comfy_v2, comfyui, edit_plus, gradio, kie, openai, runpod};
use crate::error::{ErrorKind, JobError};

/// Tells OpenAI's clients not to send a request again, which they do by themselves after any 5xx.
const SHOULD_RETRY: &str = "x-should-retry";

/// The error behind an answer, among its extensions.
#[derive(Debug, Clone)]
struct ErrorExtension(JobError);

impl IntoResponse for JobError {
    /// In RunPod's shape, until [`render_errors`] gives it that of its path.
    fn into_response(self) -> Response {
        let mut response = runpod::render_error(&self).into_response();
        if matches!(
            self.kind,
            ErrorKind::Busy | ErrorKind::Stopping | ErrorKind::StoreUnavailable | ErrorKind::ComfyUnavailable
        ) {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response.extensions_mut().insert(ErrorExtension(self));
        response
    }
}

/// Whose words the errors of a path are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Runpod,
    OpenAi,
    Kie,
    Gradio,
    EditPlus,
    Comfyui,
    ComfyV2,
}

/// The first parts of the paths of ComfyUI's own API. All of it is under `/api` too. `/view` was here before it, with its own errors.
const COMFYUI: [&str; 23] = [
    "prompt",
    "queue",
    "history",
    "interrupt",
    "free",
    "ws",
    "upload",
    "view_metadata",
    "object_info",
    "embeddings",
    "models",
    "experiment",
    "extensions",
    "features",
    "system_stats",
    "settings",
    "users",
    "userdata",
    "i18n",
    "internal",
    "workflow_templates",
    "global_subgraphs",
    "node_replacements",
];

impl Shape {
    pub(super) fn of(path: &str) -> Self {
        if path == ROOT {
            // ComfyUI's page.
            Self::Comfyui
        } else if path == "/v1" || path.starts_with("/v1/") {
            Self::OpenAi
        } else if path.starts_with("/api/v1/") {
            Self::Kie
        } else if comfy_v2::is_own(path) {
            Self::ComfyV2
        } else if path == "/config" || path.starts_with("/gradio_api/") {
            Self::Gradio
        } else if path == EDIT || path.strip_prefix(EDIT).is_some_and(|rest| rest.starts_with('/')) {
            Self::EditPlus
        } else {
            let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
            if path.starts_with("/api/") || COMFYUI.contains(&first) {
                Self::Comfyui
            } else {
                Self::Runpod
            }
        }
    }

    /// The error in these words; [`None`]: it is so already.
    fn render(self, status: u16, error: &JobError, request_id: &str) -> Option<Answer> {
        match self {
            Self::Runpod => None,
            Self::OpenAi => Some(openai::render_error(status, error, request_id)),
            Self::Kie => Some(kie::render_error(status, error)),
            Self::Gradio => Some(gradio::render_error(status, error)),
            Self::EditPlus => Some(edit_plus::render_error(status, error)),
            Self::Comfyui => Some(comfyui::render_error(status, error)),
            Self::ComfyV2 => Some(comfy_v2::render_error(status, error)),
        }
    }
}

/// Gives an error the shape of the path's API.
pub(super) async fn render_errors(request: Request, next: Next) -> Response {
    let shape = Shape::of(request.uri().path());
    let id = request.extensions().get::<RequestId>().map(|id| id.0.clone());
    let response = next.run(request).await;
    let Some(ErrorExtension(error)) = response.extensions().get() else {
        return response;
    };
    let Some(answer) = shape.render(response.status().as_u16(), error, &id.unwrap_or_default()) else {
        return response;
    };
    let final_answer = !error.kind.retryable();
    let mut rendered = answer.into_response();
    for (name, value) in response.headers() {
        if name != CONTENT_TYPE && name != CONTENT_LENGTH {
            rendered.headers_mut().append(name, value.clone());
        }
    }
    if shape == Shape::OpenAi && final_answer {
        rendered
            .headers_mut()
            .insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    rendered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_tells_the_shape() {
        for (path, shape) in [
            ("/v1/images/generations", Shape::OpenAi),
            ("/v1", Shape::OpenAi),
            ("/v1x", Shape::Runpod),
            ("/api/v1/qwen/generate", Shape::Kie),
            ("/config", Shape::Gradio),
            ("/gradio_api/queue/join", Shape::Gradio),
            ("/runsync", Shape::Runpod),
            ("/edit", Shape::EditPlus),
            ("/edit/status/x", Shape::EditPlus),
            ("/editor", Shape::Runpod),
            ("/v2/x/runsync", Shape::Runpod),
            ("/prompt", Shape::Comfyui),
            ("/api/prompt", Shape::Comfyui),
            ("/history/x", Shape::Comfyui),
            ("/api/jobs", Shape::Comfyui),
            ("/api/v2/jobs/x/events", Shape::ComfyV2),
            ("/api/v2/assets", Shape::ComfyV2),
            ("/api/v2/assetsx", Shape::Comfyui),
            ("/api/v2/manager/queue", Shape::Comfyui),
            ("/prompts", Shape::Runpod),
        ] {
            assert_eq!(Shape::of(path), shape, "{path}");
        }
    }
}
