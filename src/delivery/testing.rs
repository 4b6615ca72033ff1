//! A receiver of webhooks on a real socket that answers what it is told, and keeps what it got.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use url::Url;

/// What the receiver does with one request.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// This status, and nothing more.
    Status(u16),
    /// This status with a header.
    Header(u16, &'static str, String),
    /// This status with a body.
    Body(u16, String),
    /// No answer, ever.
    Hang,
    /// The connection is closed.
    Reset,
}

/// One request as it came in.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Received {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Receiver {
    pub(super) port: u16,
    script: Arc<Mutex<VecDeque<Reply>>>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    /// Answers by the script, and 200 when it is used up.
    pub(super) async fn start(script: impl IntoIterator<Item = Reply>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            port: listener.local_addr().unwrap().port(),
            script: Arc::new(Mutex::new(script.into_iter().collect())),
            ..Self::default()
        };
        let router = Router::new().fallback(answer).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    pub(super) fn url(&self, path: &str) -> Url {
        format!("http://127.0.0.1:{}{path}", self.port).parse().unwrap()
    }

    pub(super) fn requests(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

async fn answer(State(receiver): State<Receiver>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    receiver.received.lock().unwrap().push(Received {
        path: head.uri.to_string(),
        headers: head.headers,
        body,
    });
    let reply = receiver.script.lock().unwrap().pop_front();
    let response = |status: u16| Response::builder().status(status);
    match reply.unwrap_or(Reply::Status(200)) {
        Reply::Status(status) => response(status).body(Body::empty()).unwrap(),
        Reply::Header(status, name, value) => response(status).header(name, value).body(Body::empty()).unwrap(),
        Reply::Body(status, text) => response(status).body(Body::from(text)).unwrap(),
        Reply::Hang => std::future::pending().await,
        // The connection's task ends, and with it the connection; nothing is printed.
        Reply::Reset => std::panic::resume_unwind(Box::new(())),
    }
}
