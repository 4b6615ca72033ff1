//! What is answered in the place of ComfyUIs elsewhere, by what they told: the node classes.

use axum::extract::Request;
use axum::http::{Method, header};
use axum::response::{IntoResponse as _, Response};
use percent_encoding::percent_decode_str;

use super::Passed;
use crate::http::state::State;

/// A question about node classes.
pub(super) enum Classes {
    All,
    One(String),
}

impl Classes {
    /// What a request asks for; [`None`]: something else.
    pub(super) fn asked(request: &Request) -> Option<Self> {
        let path = request.uri().path();
        let path = path.strip_prefix("/api").unwrap_or(path).strip_prefix("/object_info")?;
        if request.method() != Method::GET {
            return None;
        }
        if path.is_empty() {
            return Some(Self::All);
        }
        let class = percent_decode_str(path.strip_prefix('/')?).decode_utf8().ok()?;
        Some(Self::One(class.into_owned()))
    }

    /// Answers as ComfyUI does; [`None`]: no engine tells its classes.
    pub(super) async fn answer(&self, state: &State) -> Option<Response> {
        let class = match self {
            Self::All => None,
            Self::One(class) => Some(class.as_str()),
        };
        let object_info = state.queue.object_info(class).await?;
        let mut response = ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], object_info).into_response();
        response.extensions_mut().insert(Passed);
        Some(response)
    }
}
