//! A receiver of webhooks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::http::HeaderMap;
use axum::routing::post;
use serde_json::Value;

/// Takes webhooks and remembers them.
pub(crate) struct Receiver {
    pub(crate) url: String,
    came: Arc<Mutex<Vec<Webhook>>>,
}

/// One delivery.
#[derive(Debug, Clone)]
pub(crate) struct Webhook {
    pub(crate) id: String,
    pub(crate) body: Value,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address")).await
    }

    /// A receiver at an address that was free a moment ago.
    pub(crate) async fn at(address: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.expect("a free port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let came = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&came);
        let take = async move |headers: HeaderMap, body: String| {
            let id = headers.get("webhook-id").and_then(|id| id.to_str().ok());
            let webhook = Webhook {
                id: id.expect("an id").to_owned(),
                body: serde_json::from_str(&body).expect("JSON"),
            };
            taken.lock().expect("no panic").push(webhook);
        };
        let router = axum::Router::new().route("/hook", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, came }
    }

    /// What came so far.
    pub(crate) fn came(&self) -> MutexGuard<'_, Vec<Webhook>> {
        self.came.lock().expect("no panic")
    }
}
