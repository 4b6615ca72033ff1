//! A RunPod endpoint, and an images API, on a real socket: it answers as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex as StdMutex};

use axum::Router;
use axum::body::Bytes as Body;
use axum::extract::{Path as At, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::net::testing::serve;

/// A picture of one pixel.
pub(super) static PNG: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut png = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::new(1, 1);
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
});

/// A RunPod endpoint, and an images API.
#[derive(Default)]
pub(super) struct Endpoint {
    /// What the next `/run`, or the next request for a picture, is answered.
    answers: StdMutex<VecDeque<(u16, Value)>>,
    /// How jobs stand; [`None`]: they are completed.
    pub(super) status: StdMutex<Option<Value>>,
    pub(super) runs: StdMutex<Vec<Value>>,
    pub(super) cancelled: StdMutex<Vec<String>>,
    pub(super) retry_after: StdMutex<Option<String>>,
    /// Held while a job is sent.
    pub(super) hold: tokio::sync::Mutex<()>,
}

impl Endpoint {
    pub(super) async fn start() -> (Arc<Self>, String) {
        let endpoint = Arc::new(Self::default());
        let router = Router::new()
            .route("/v2/x/run", post(run))
            .route("/v2/x/status/{id}", get(status))
            .route("/v2/x/cancel/{id}", post(cancel))
            .route("/v1/images/generations", post(picture))
            .with_state(Arc::clone(&endpoint));
        (endpoint, serve(router).await)
    }

    pub(super) fn answers(&self, status: u16, body: Value) {
        self.answers.lock().unwrap().push_back((status, body));
    }

    pub(super) fn stands(&self, status: Value) {
        *self.status.lock().unwrap() = Some(status);
    }

    pub(super) fn runs(&self) -> usize {
        self.runs.lock().unwrap().len()
    }

    pub(super) fn cancelled(&self) -> usize {
        self.cancelled.lock().unwrap().len()
    }

    /// What it answers to what was sent, unless it was told otherwise.
    async fn sent(&self, body: &Body, usual: impl FnOnce(usize) -> Value) -> Response {
        let number = {
            let mut runs = self.runs.lock().unwrap();
            runs.push(serde_json::from_slice(body).unwrap_or_default());
            runs.len()
        };
        let _held = self.hold.lock().await;
        let answer = self.answers.lock().unwrap().pop_front();
        let (status, body) = answer.unwrap_or_else(|| (200, usual(number)));
        let body = match body {
            Value::String(text) => text,
            body => body.to_string(),
        };
        let mut headers = HeaderMap::new();
        if let Some(wait) = self.retry_after.lock().unwrap().as_ref() {
            headers.insert("retry-after", wait.parse().unwrap());
        }
        (StatusCode::from_u16(status).unwrap(), headers, body).into_response()
    }
}

async fn run(Shared(endpoint): Shared<Arc<Endpoint>>, body: Body) -> Response {
    let usual = |number| json!({"id": format!("job-{number}"), "status": "IN_QUEUE"});
    endpoint.sent(&body, usual).await
}

async fn picture(Shared(endpoint): Shared<Arc<Endpoint>>, body: Body) -> Response {
    endpoint
        .sent(&body, |_| json!({"data": [{"b64_json": encoded()}]}))
        .await
}

async fn status(Shared(endpoint): Shared<Arc<Endpoint>>, At(id): At<String>) -> Response {
    let status = endpoint.status.lock().unwrap().clone();
    let image = json!({"filename": "fox_00001_.png", "type": "base64", "data": encoded()});
    let mut body = status.unwrap_or_else(|| json!({"status": "COMPLETED", "output": {"images": [image], "seed": 7}}));
    if body.get("id").is_none() {
        body["id"] = id.into();
    }
    axum::Json(body).into_response()
}

async fn cancel(Shared(endpoint): Shared<Arc<Endpoint>>, At(id): At<String>) -> Response {
    endpoint.cancelled.lock().unwrap().push(id.clone());
    axum::Json(json!({"id": id, "status": "CANCELLED"})).into_response()
}

fn encoded() -> String {
    use base64::Engine as _;
    crate::encoding::STANDARD.encode(&*PNG)
}
