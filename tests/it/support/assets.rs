//! A client of Comfy API v2's assets, and what it sends.

use std::path::Path;

use bytes::Bytes;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use super::comfyui::Client;
use super::{Worker, text};

/// Where nothing listens: no ComfyUI is needed, it may start meanwhile, or never.
pub(crate) const NOWHERE: &str = "http://127.0.0.1:9";

/// A client with a key, or with none.
pub(crate) struct Assets(Client);

impl Assets {
    pub(crate) fn of(worker: &Worker, key: Option<&str>) -> Self {
        Self::at(&worker.url, key)
    }

    pub(crate) fn at(url: &str, key: Option<&str>) -> Self {
        let client = Client::new(url);
        Self(key.map_or_else(|| client.clone(), |key| client.with_key(key)))
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.0.request(method, &format!("/api/v2{path}"))
    }

    pub(crate) async fn send(&self, method: Method, path: &str) -> Response {
        self.request(method, path).send().await.expect("an answer")
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path).await
    }

    pub(crate) async fn status(&self, method: Method, path: &str) -> u16 {
        self.send(method, path).await.status().as_u16()
    }

    pub(crate) async fn upload(&self, form: Form) -> (u16, Value) {
        self.answer(self.request(Method::POST, "/assets").multipart(form)).await
    }

    pub(crate) async fn upload_as(&self, form: Form, key: &str) -> (u16, Value) {
        let request = self.request(Method::POST, "/assets").header("idempotency-key", key);
        self.answer(request.multipart(form)).await
    }

    pub(crate) async fn minted(&self, body: Value) -> (u16, Value) {
        self.answer(self.request(Method::POST, "/assets/from-hash").json(&body))
            .await
    }

    pub(crate) async fn answer(&self, request: RequestBuilder) -> (u16, Value) {
        let said = self.0.said(request).await;
        (said.status, said.body)
    }
}

pub(crate) fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, text(&answer.1["error"], "code"))
}

pub(crate) fn file(content: impl Into<Bytes>, name: &str) -> Part {
    let content: Bytes = content.into();
    let length = content.len() as u64;
    Part::stream_with_length(content, length).file_name(name.to_owned())
}

pub(crate) fn form(content: impl Into<Bytes>, name: &str) -> Form {
    let form = Form::new()
        .text("content_type", "image/png")
        .text("file_path", name.to_owned());
    form.part("file", file(content, name))
}

pub(crate) fn hash(content: &[u8]) -> String {
    format!("blake3:{}", blake3::hash(content).to_hex())
}

/// The files that are kept, and those that come.
pub(crate) fn on_disk(data: &Path) -> (usize, usize) {
    let count = |path: &Path| std::fs::read_dir(path).map_or(0, Iterator::count);
    let kept = std::fs::read_dir(data.join("assets/blobs")).expect("a folder");
    let kept = kept.map(|part| count(&part.expect("a folder").path()));
    (kept.sum(), count(&data.join("assets/incoming")))
}

pub(crate) fn data(worker: &Worker) -> &Path {
    worker.data.as_ref().expect("a folder").path()
}
