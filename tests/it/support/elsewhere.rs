//! Fronts: workers of ours that have no ComfyUI, and engines elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::binary::Served;
use super::images_api::IMAGES_KEY;
use super::runpod_api::API_KEY;
use super::{Answer, PATIENCE, http, text, until};

/// What an images API takes beside prompt, size and model, where a test says nothing else.
pub(crate) const SENDS: &str = r#"sends = ["seed", "n", "negative_prompt", "steps", "cfg"]"#;

/// A front. Its data stay where they are when it is killed.
pub(crate) struct Front {
    pub(crate) served: Served,
    data: TempDir,
}

/// An answer of `/runsync`.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) answer: Answer,
    /// The header that names the engine.
    pub(crate) header: Option<String>,
}

/// A RunPod endpoint as an entry of `ENGINES`, with further lines.
pub(crate) fn runpod(name: &str, url: &str, more: &str) -> String {
    format!("[[engine]]\nname = \"{name}\"\nkind = \"runpod\"\nurl = \"{url}\"\nkey = \"env:ENDPOINT_KEY\"\n{more}\n")
}

/// An images API as an entry of `ENGINES`, with further lines.
pub(crate) fn images(name: &str, url: &str, more: &str) -> String {
    format!(
        "[[engine]]\nname = \"{name}\"\nkind = \"openai\"\nurl = \"{url}\"\nkey = \"env:IMAGES_KEY\"\n\
         model = \"Qwen/Qwen-Image\"\n{SENDS}\n{more}\n"
    )
}

/// The variables of a front. There is nothing on its `PATH`, and no place for a ComfyUI: it needs neither.
pub(crate) fn vars(data: &Path, engines: &str, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let folder = data.display().to_string();
    let nowhere = data.join("nothing").display().to_string();
    let vars = [
        ("DATA_DIR", folder.as_str()),
        ("COMFYUI_INSTALL_DIR", &nowhere),
        ("PATH", &nowhere),
        ("PORT", "0"),
        ("EDIT_PORT", "none"),
        ("NETWORK_VOLUMES", "none"),
        ("ENGINES", engines),
        ("ENDPOINT_KEY", API_KEY),
        ("IMAGES_KEY", IMAGES_KEY),
    ];
    vars.iter()
        .chain(more)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

impl Front {
    pub(crate) async fn start(engines: &str, more: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let served = Served::start(&vars(data.path(), engines, more)).await;
        Self { served, data }
    }

    /// `kill -9`; then another one goes on where it was, and finds its engines as they are now.
    pub(crate) async fn killed_and_started(self, engines: &str, more: &[(&str, &str)]) -> Self {
        self.served.kill().await;
        let served = Served::start(&vars(self.data.path(), engines, more)).await;
        Self {
            served,
            data: self.data,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.served.url
    }

    /// Its data; what it never needs is not there.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// Posts `{"input": …}` with more beside it to `/runsync`.
    pub(crate) async fn runsync_with(&self, input: &Value, beside: &Value) -> Ended {
        let mut body = json!({ "input": input });
        for (name, value) in beside.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let request = http().post(format!("{}/runsync", self.url())).body(body.to_string());
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let header = answer.headers().get("x-engine").and_then(|name| name.to_str().ok());
        let header = header.map(str::to_owned);
        let body = answer.json().await.expect("JSON");
        let answer = Answer { status, body };
        Ended { answer, header }
    }

    pub(crate) async fn runsync(&self, input: &Value) -> Ended {
        self.runsync_with(input, &json!({})).await
    }

    /// Takes a job in by `/run`; gives its id.
    pub(crate) async fn accept(&self, input: &Value) -> String {
        self.served.accept(json!({ "input": input })).await
    }

    /// What `/status` says of a job.
    pub(crate) async fn status(&self, id: &str) -> Value {
        self.served.ask(&format!("/status/{id}")).await.body
    }

    /// The job at its end.
    pub(crate) async fn end(&self, id: &str) -> Answer {
        let end = tokio::time::timeout(PATIENCE, self.served.end(id)).await;
        end.unwrap_or_else(|late| panic!("the job does not end ({late})"))
    }

    pub(crate) async fn cancel(&self, id: &str) {
        let answer = self
            .served
            .send(Method::POST, &format!("/cancel/{id}"), String::new())
            .await;
        assert_eq!(answer.status, 200, "{:#}", answer.body);
    }

    /// Waits for a state of a job that is none of its ends.
    pub(crate) async fn is(&self, id: &str, state: &str) {
        until("the job is in that state", async || {
            text(&self.status(id).await, "status") == state
        })
        .await;
    }

    /// What `/health` says of an engine.
    pub(crate) async fn engine(&self, name: &str) -> Value {
        let health = self.served.ask("/health").await.body;
        let engines = health["engines"]
            .as_array()
            .unwrap_or_else(|| panic!("no engines: {health:#}"));
        let found = engines.iter().find(|engine| engine["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {health:#}")).clone()
    }

    /// The engine that the header of an answer names.
    pub(crate) async fn engine_of(&self, path: &str) -> Option<String> {
        let answer = http().get(format!("{}{path}", self.url())).send().await;
        let answer = answer.expect("an answer");
        let name = answer.headers().get("x-engine")?.to_str().expect("a name");
        Some(name.to_owned())
    }

    /// The first picture of an answer, by `/view`.
    pub(crate) async fn picture(&self, answer: &Answer) -> Vec<u8> {
        let image = answer.images().first();
        let image = image.unwrap_or_else(|| panic!("no picture: {:#}", answer.body));
        let (name, subfolder, folder) = (text(image, "filename"), text(image, "subfolder"), text(image, "type"));
        self.file(&format!("/view?filename={name}&subfolder={subfolder}&type={folder}"))
            .await
    }

    /// A file by its path.
    pub(crate) async fn file(&self, path: &str) -> Vec<u8> {
        let answer = http()
            .get(format!("{}{path}", self.url()))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        answer.bytes().await.expect("a file").to_vec()
    }
}

impl Ended {
    /// The answer of a job that an engine has done.
    #[track_caller]
    pub(crate) fn by(self, engine: &str) -> Answer {
        let answer = self.answer.completed();
        assert_eq!(answer.body["output"]["engine"], engine, "{:#}", answer.body);
        assert_eq!(self.header.as_deref(), Some(engine), "the header x-engine");
        answer
    }

    /// Checks that it failed, and that the error says all of these.
    #[track_caller]
    pub(crate) fn failed(&self, words: &[&str]) {
        let body = &self.answer.body;
        assert!(self.answer.status >= 400, "{} {body:#}", self.answer.status);
        let error = self.answer.error().to_lowercase();
        for word in words {
            assert!(error.contains(&word.to_lowercase()), "{word:?} is not in: {error}");
        }
    }
}

/// Checks that it is a PNG of this size.
#[track_caller]
pub(crate) fn assert_png(content: &[u8], width: u32, height: u32) {
    assert_eq!(image::guess_format(content).ok(), Some(image::ImageFormat::Png));
    let picture = image::load_from_memory(content).expect("a whole picture");
    assert_eq!((picture.width(), picture.height()), (width, height));
}
