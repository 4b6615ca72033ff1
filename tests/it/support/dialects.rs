//! Each way in, from a request to its picture or to what it was refused with. The shape of every refusal is checked here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::{PATIENCE, Worker, text, until};

/// A way in. What a body is to it: the body itself, or what is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `/runsync`; the body is its `input`.
    Runsync,
    /// `/v1/images/generations`.
    Generations,
    /// `/v1/images/edits` with JSON.
    Edits,
    /// `/v1/images/edits` with a form: images in base64 are sent as files, and lists part by part.
    EditsForm,
    /// `/v1/images/edits` with JSON, as events.
    EditsStreamed,
    /// `/v1/images/generations`, as events.
    GenerationsStreamed,
    /// `/gradio_api/call/infer`; the body is a list.
    GradioCall,
    /// `/gradio_api/queue/join`; the body is a list.
    GradioJoin,
    /// `/api/v1/qwen/generate`.
    Kie,
    /// `/edit/edit-image`.
    EditPlus,
}

impl Way {
    /// Whether what goes wrong in a job is told in a record or an event, whose own status is 200.
    pub(crate) fn tells_later(self) -> bool {
        !matches!(self, Self::Runsync | Self::Generations | Self::Edits | Self::EditsForm)
    }
}

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// With a picture.
    Picture,
    /// Without one.
    Refused(Refusal),
}

/// What a client was told.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The HTTP status of the answer that told it.
    pub(crate) status: u16,
    /// What to read.
    pub(crate) message: String,
    /// The field at fault, where the dialect has a place for it.
    pub(crate) param: Option<String>,
}

impl Refusal {
    /// Checks its status, and that these words are in it.
    #[track_caller]
    pub(crate) fn says(&self, status: u16, words: &[&str], what: &str) {
        assert_eq!(self.status, status, "{what}: {self:?}");
        for word in words {
            assert!(
                self.message.contains(word),
                "{what}: `{word}` is not in: {}",
                self.message
            );
        }
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn refused(self, what: &str) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Picture => panic!("{what}: a picture"),
        }
    }

    #[track_caller]
    pub(crate) fn picture(self, what: &str) {
        if let Self::Refused(refusal) = self {
            panic!("{what}: {refusal:?}");
        }
    }
}

fn refused(status: u16, message: &Value) -> Ended {
    let message = message.as_str().unwrap_or_else(|| panic!("no message: {message}"));
    let message = message.to_owned();
    Ended::Refused(Refusal {
        status,
        message,
        param: None,
    })
}

/// A client of a worker's, with a key.
pub(crate) struct Client<'a> {
    pub(crate) worker: &'a Worker,
    http: reqwest::Client,
    key: &'a str,
}

impl<'a> Client<'a> {
    pub(crate) fn new(worker: &'a Worker, key: &'a str) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build();
        Self {
            worker,
            http: http.expect("a client"),
            key,
        }
    }

    /// Sends a request to its end.
    pub(crate) async fn ask(&self, way: Way, body: &Value) -> Ended {
        match way {
            Way::Runsync => self.runsync(body).await,
            Way::Generations => self.openai("generations", body).await,
            Way::Edits => self.openai("edits", body).await,
            Way::EditsForm => {
                let request = self.request(Method::POST, "/v1/images/edits");
                openai(self.answer(request.multipart(form(body))).await)
            }
            Way::EditsStreamed | Way::GenerationsStreamed => {
                let path = if way == Way::EditsStreamed {
                    "edits"
                } else {
                    "generations"
                };
                let mut body = body.clone();
                body["stream"] = json!(true);
                self.openai(path, &body).await
            }
            Way::GradioCall => self.gradio_call(body).await,
            Way::GradioJoin => self.gradio_join(body).await,
            Way::Kie => self.kie(body).await,
            Way::EditPlus => self.edit_plus(body).await,
        }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.worker.url));
        request.bearer_auth(self.key)
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> (u16, String) {
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.bytes().await.expect("a body");
        assert_ne!(status, 500, "{}", String::from_utf8_lossy(&body));
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// Sends a body as it is.
    pub(crate) async fn send(&self, method: Method, path: &str, body: &str) -> (u16, String) {
        self.answer(self.request(method, path).body(body.to_owned())).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.send(Method::POST, path, &body.to_string()).await;
        (status, parsed(&text))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, text) = self.send(Method::GET, path, "").await;
        (status, parsed(&text))
    }

    async fn picture_at(&self, path: &str) -> Ended {
        let answer = self.request(Method::GET, path).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        picture(&answer.bytes().await.expect("a file"))
    }

    async fn runsync(&self, input: &Value) -> Ended {
        let mut input = input.clone();
        input["return_images_as"] = json!("base64");
        let (status, body) = self.post("/runsync", &json!({ "input": input })).await;
        if status == 200 && body["status"] == "COMPLETED" {
            return in_base64(&body["output"]["images"][0]["data"]);
        }
        // One that became a job has its id.
        assert_eq!(body["id"].is_string(), body["status"] == "FAILED", "{body:#}");
        refused(status, &body["error"])
    }

    async fn openai(&self, path: &str, body: &Value) -> Ended {
        let path = format!("/v1/images/{path}");
        openai(self.send(Method::POST, &path, &body.to_string()).await)
    }

    async fn gradio_call(&self, data: &Value) -> Ended {
        let (status, body) = self.post("/gradio_api/call/infer", &json!({ "data": data })).await;
        if status != 200 {
            return gradio(status, &body);
        }
        let path = format!("/gradio_api/call/infer/{}", text(&body, "event_id"));
        let (status, stream) = self.send(Method::GET, &path, "").await;
        let (name, data) = stream
            .split("\n\n")
            .filter_map(|event| event.split_once("\ndata: "))
            .find(|(name, _)| *name != "event: heartbeat")
            .unwrap_or_else(|| panic!("no end: {stream}"));
        match name {
            "event: complete" => in_base64(&parsed(data)[0]),
            "event: error" => refused(status, &parsed(data)["error"]),
            other => panic!("{other}: {stream}"),
        }
    }

    async fn gradio_join(&self, data: &Value) -> Ended {
        let session = uuid::Uuid::new_v4().to_string();
        let body = json!({"data": data, "fn_index": 0, "session_hash": session});
        let (status, body) = self.post("/gradio_api/queue/join", &body).await;
        if status != 200 {
            return gradio(status, &body);
        }
        let path = format!("/gradio_api/queue/data?session_hash={session}");
        let (status, stream) = self.send(Method::GET, &path, "").await;
        let events = stream.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        let end = events
            .map(parsed)
            .find(|event| event["msg"] == "process_completed")
            .unwrap_or_else(|| panic!("no end: {stream}"));
        if end["success"] == true {
            return in_base64(&end["output"]["data"][0]);
        }
        assert!(end["title"].is_string(), "{end:#}");
        refused(status, &end["output"]["error"])
    }

    async fn kie(&self, body: &Value) -> Ended {
        let (status, body) = self.post("/api/v1/qwen/generate", body).await;
        assert_eq!(body["code"], status, "{body:#}");
        if status != 200 {
            assert_eq!(body["data"], Value::Null, "{body:#}");
            return refused(status, &body["msg"]);
        }
        let path = format!("/api/v1/qwen/record-info?taskId={}", text(&body["data"], "taskId"));
        let mut record = (0, Value::Null);
        until("the task ends", async || {
            record = self.get(&path).await;
            record.1["successFlag"] != 0
        })
        .await;
        let (status, record) = record;
        if record["successFlag"] == 1 {
            let url = text(&record, "imageUrl");
            return self.picture_at(url.strip_prefix(&self.worker.url).unwrap_or(url)).await;
        }
        refused(status, &record["data"]["errorMessage"])
    }

    async fn edit_plus(&self, body: &Value) -> Ended {
        let (status, body) = self.post("/edit/edit-image", body).await;
        if status != 200 {
            assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{body:#}");
            return refused(status, &body["detail"]);
        }
        let id = text(&body, "job_id");
        let mut job = (0, Value::Null);
        until("the job is over", async || {
            job = self.get(&format!("/edit/status/{id}")).await;
            ["completed", "error"].contains(&text(&job.1, "status"))
        })
        .await;
        let download = format!("/edit/download/{id}");
        if job.1["status"] == "completed" {
            return self.picture_at(&download).await;
        }
        let (status, body) = self.get(&download).await;
        let told = format!("Image not ready: {}", text(&job.1, "error"));
        assert_eq!((status, text(&body, "detail")), (400, told.as_str()));
        refused(job.0, &job.1["error"])
    }
}

#[track_caller]
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
}

#[track_caller]
fn picture(content: &[u8]) -> Ended {
    image::load_from_memory(content).expect("a picture");
    Ended::Picture
}

/// A picture in base64, as a data URI or plain.
#[track_caller]
fn in_base64(data: &Value) -> Ended {
    let data = data.as_str().unwrap_or_else(|| panic!("no picture: {data}"));
    let plain = data.rsplit_once(',').map_or(data, |(_, plain)| plain);
    picture(&STANDARD.decode(plain).expect("base64"))
}

/// The fields as a form has them.
fn form(body: &Value) -> Form {
    let mut form = Form::new();
    for (name, value) in body.as_object().into_iter().flatten() {
        let (name, items) = match value {
            Value::Null => continue,
            Value::Array(items) => (format!("{name}[]"), items.clone()),
            one => (name.clone(), vec![one.clone()]),
        };
        for item in items {
            let text = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            let is_image = ["image", "image[]", "mask"].contains(&name.as_str());
            form = match STANDARD.decode(&text) {
                Ok(content) if is_image => form.part(name.clone(), Part::bytes(content).file_name("picture.png")),
                _ => form.text(name.clone(), text),
            };
        }
    }
    form
}

/// An answer of OpenAI's API, whole or as events.
#[track_caller]
fn openai((status, answer): (u16, String)) -> Ended {
    let body = if answer.starts_with('{') {
        parsed(&answer)
    } else {
        let mut events = answer.split("\n\n").filter_map(|event| event.split_once("\ndata: "));
        let end = events.find(|(name, _)| {
            [
                "event: error",
                "event: image_edit.completed",
                "event: image_generation.completed",
            ]
            .contains(name)
        });
        let (_, data) = end.unwrap_or_else(|| panic!("no end: {answer}"));
        parsed(data)
    };
    let Some(error) = body.get("error") else {
        return in_base64(body.get("b64_json").unwrap_or(&body["data"][0]["b64_json"]));
    };
    assert_eq!(error.as_object().map(serde_json::Map::len), Some(4), "{error:#}");
    assert_eq!(error["type"], "invalid_request_error", "{error:#}");
    assert!(error["code"].is_string(), "{error:#}");
    Ended::Refused(Refusal {
        status,
        message: text(error, "message").to_owned(),
        param: error["param"].as_str().map(str::to_owned),
    })
}

/// A refusal of Gradio's before the event: a list for a body that is wrong in itself.
#[track_caller]
fn gradio(status: u16, body: &Value) -> Ended {
    let detail = &body["detail"];
    if status == 422 {
        assert!(detail[0]["type"].is_string() && detail[0]["loc"].is_array(), "{body:#}");
        return refused(status, &detail[0]["msg"]);
    }
    refused(status, detail)
}
