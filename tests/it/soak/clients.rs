//! Clients of every dialect: each sends jobs, one after the other, and waits for their ends.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::binary::Served;
use crate::support::image_server::png;
use crate::support::{graph, http, text};

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A graph with a picture of its own, by `/run` and a webhook.
    Runpod,
    /// A graph that names a file of the user's.
    Named,
    /// A graph that saves something and fails then.
    Fails,
    /// One that saves something and is cancelled then.
    CalledOff,
    OpenAi,
    Gradio,
    Kie,
    EditPlus,
}

pub(super) const ALL: [Kind; 8] = [
    Kind::Runpod,
    Kind::Named,
    Kind::Fails,
    Kind::CalledOff,
    Kind::OpenAi,
    Kind::Gradio,
    Kind::Kie,
    Kind::EditPlus,
];

/// A job from its sending to its end.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) kind: Kind,
    /// As a call back names it, where there is one.
    pub(super) called_back: Option<String>,
    pub(super) sent: Instant,
    pub(super) ended: Instant,
    pub(super) end: End,
}

/// How it ended.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    Completed,
    Failed(String),
    Cancelled,
    /// It was not taken in.
    Refused(u16, String),
}

/// One client.
pub(super) struct Client<'a> {
    pub(super) worker: &'a Served,
    pub(super) hook: &'a str,
    /// What this client's jobs are called; no two have one in common, so that nothing comes from ComfyUI's cache.
    pub(super) number: u64,
}

impl Client<'_> {
    /// Sends one job and waits for its end.
    pub(super) async fn one(&mut self, kind: Kind) -> Job {
        self.number += 1;
        let sent = Instant::now();
        let (called_back, end) = match kind {
            Kind::Runpod | Kind::Named | Kind::Fails | Kind::CalledOff => self.runpod(kind).await,
            Kind::OpenAi => (None, self.openai().await),
            Kind::Gradio => (None, self.gradio().await),
            Kind::Kie => self.kie().await,
            Kind::EditPlus => (None, self.edit_plus().await),
        };
        Job {
            kind,
            called_back,
            sent,
            ended: Instant::now(),
            end,
        }
    }

    fn graph(&self, kind: Kind) -> Value {
        let seed = self.number;
        let steps = |count: u32| json!({"steps": count, "ms_per_step": 40, "preview": false, "seed": seed});
        let saved = |from: &str| json!({"class_type": "SaveImage", "inputs": {"images": [from, 0], "filename_prefix": "soak/a"}});
        let mut graph = graph("SlowProgress", steps(3));
        match kind {
            Kind::Named => {
                graph = json!({"1": {"class_type": "ShowNamed", "inputs": {"filename": "keep.png", "seed": seed}}});
            }
            Kind::Fails => {
                graph["3"] =
                    json!({"class_type": "Raise", "inputs": {"message": "the lamp is out", "image": ["1", 0]}});
                graph["4"] = saved("3");
            }
            Kind::CalledOff => {
                let mut inputs = steps(500);
                inputs["image"] = json!(["1", 0]);
                graph["3"] = json!({"class_type": "SlowProgress", "inputs": inputs});
                graph["4"] = saved("3");
            }
            _ => {
                graph["1"]["inputs"]["image"] = json!(["3", 0]);
                graph["3"] = json!({"class_type": "LoadImage", "inputs": {"image": "up.png"}});
            }
        }
        graph
    }

    async fn runpod(&self, kind: Kind) -> (Option<String>, End) {
        let mut body = json!({"input": {"workflow": self.graph(kind)}, "webhook": self.hook});
        if kind == Kind::Runpod {
            body["input"]["images"] = json!([{"name": "up.png", "image": red()}]);
        }
        let id = match self.post("/run", &body, "/id").await {
            Ok(id) => id,
            Err(refused) => return (None, refused),
        };
        let (began, mut is_called_off) = (Instant::now(), false);
        let end = loop {
            let job = self.get(&format!("/status/{id}")).await;
            match text(&job, "status") {
                "COMPLETED" => break End::Completed,
                "CANCELLED" => break End::Cancelled,
                "FAILED" | "TIMED_OUT" => break End::Failed(text(&job, "error").to_owned()),
                status => {
                    let is_due = status == "IN_PROGRESS" || began.elapsed() > Duration::from_secs(3);
                    if kind == Kind::CalledOff && is_due && !is_called_off {
                        let path = format!("/cancel/{id}");
                        is_called_off = self.send(Method::POST, &path, String::new()).await.0 == 200;
                    }
                }
            }
            pause().await;
        };
        (Some(id), end)
    }

    async fn openai(&self) -> End {
        let body = json!({"model": "Qwen/Qwen-Image", "prompt": "p", "seed": self.number, "size": "64x64", "quality": "high",
            "steps": 3, "guidance_scale": 1, "response_format": "b64_json"});
        let (status, answer) = self
            .send(Method::POST, "/v1/images/generations", body.to_string())
            .await;
        match (status, answer["data"][0]["b64_json"].as_str()) {
            (200, Some(_)) => End::Completed,
            (429 | 503, _) => refused(status, &answer),
            _ => End::Failed(answer.to_string()),
        }
    }

    async fn gradio(&self) -> End {
        let body = json!({"data": ["p", self.number, false, "1:1", 1, 3, false]});
        let id = match self.post("/gradio_api/call/infer", &body, "/event_id").await {
            Ok(id) => id,
            Err(refused) => return refused,
        };
        let url = format!("{}/gradio_api/call/infer/{id}", self.worker.url);
        let told = http().get(url).send().await.expect("the worker answers");
        let told = told.text().await.expect("events");
        if told.contains("event: complete") {
            End::Completed
        } else {
            End::Failed(told)
        }
    }

    async fn kie(&self) -> (Option<String>, End) {
        let input = json!({"prompt": "p", "seed": self.number, "image_size": "square_hd", "num_inference_steps": 3});
        let body = json!({"model": "qwen/text-to-image", "input": input, "callBackUrl": self.hook});
        let id = match self.post("/api/v1/jobs/createTask", &body, "/data/taskId").await {
            Ok(id) => id,
            Err(refused) => return (None, refused),
        };
        let path = format!("/api/v1/jobs/recordInfo?taskId={id}");
        let end = loop {
            let record = self.get(&path).await["data"].take();
            match text(&record, "state") {
                "success" => {
                    let results: Value = serde_json::from_str(text(&record, "resultJson")).expect("JSON");
                    break self
                        .picture(results["resultUrls"][0].as_str().unwrap_or_default())
                        .await;
                }
                "fail" => break End::Failed(text(&record, "failMsg").to_owned()),
                _ => pause().await,
            }
        };
        (Some(id), end)
    }

    async fn edit_plus(&self) -> End {
        let body =
            json!({"prompt": "p", "seed": self.number, "image1_url": red(), "megapixels": 0.02, "steps": 3, "cfg": 1});
        let id = match self.post("/edit/edit-image", &body, "/job_id").await {
            Ok(id) => id,
            Err(refused) => return refused,
        };
        loop {
            let job = self.get(&format!("/edit/status/{id}")).await;
            match text(&job, "status") {
                "completed" => {
                    let url = format!("{}{}", self.worker.url, text(&job, "download_url"));
                    return self.picture(&url).await;
                }
                "error" => return End::Failed(text(&job, "error").to_owned()),
                _ => pause().await,
            }
        }
    }

    /// Takes a job in; gives its id, at the pointer.
    async fn post(&self, path: &str, body: &Value, pointer: &str) -> Result<String, End> {
        let (status, answer) = self.send(Method::POST, path, body.to_string()).await;
        let id = answer
            .pointer(pointer)
            .and_then(Value::as_str)
            .filter(|_| status == 200);
        id.map(str::to_owned).ok_or_else(|| refused(status, &answer))
    }

    /// What a path answers; nothing while the worker cannot look.
    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.send(Method::GET, path, String::new()).await;
        match status {
            200 => answer,
            404 => {
                json!({"status": "FAILED", "error": "it is not known", "data": {"state": "fail", "failMsg": "it is not known"}})
            }
            _ => Value::Null,
        }
    }

    async fn send(&self, method: Method, path: &str, body: String) -> (u16, Value) {
        let answer = self.worker.try_send(method, path, body).await;
        let answer = answer.unwrap_or_else(|error| panic!("the worker does not answer {path}: {error}"));
        (answer.status, answer.body)
    }

    async fn picture(&self, url: &str) -> End {
        loop {
            let file = http().get(url).send().await.expect("the worker answers");
            let (status, later) = (file.status().as_u16(), file.headers().contains_key("retry-after"));
            let content = file.bytes().await.unwrap_or_default();
            if status == 200 && content.starts_with(b"\x89PNG") {
                return End::Completed;
            }
            // The ComfyUI that has it is away.
            if status != 503 || !later {
                return End::Failed(format!(
                    "{status} for its picture: {}",
                    String::from_utf8_lossy(&content)
                ));
            }
            pause().await;
        }
    }
}

fn refused(status: u16, answer: &Value) -> End {
    End::Refused(status, answer.to_string())
}

fn red() -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png(32, 32, 255)))
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}
