//! The ways in which a client gets a picture: each dialect's requests, from the first byte sent until the picture is read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::client::{Connection, request};

/// What is asked for.
const PROMPT: &str = "a red fox in the snow";
/// How much of an answer is kept: all of those that hold no picture.
const KEPT: usize = 16 * 1024;
const JSON: &str = "application/json";
const BOUNDARY: &str = "the-boundary-of-the-form";

/// One way to a picture.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    /// Whether it sends an image.
    pub(crate) edits: bool,
    connection: Connection,
    go: Box<dyn FnMut(&mut Connection)>,
}

/// The picture that every way leads to.
pub(crate) struct Picture {
    bytes: Vec<u8>,
    base64: String,
}

impl Picture {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let base64 = STANDARD.encode(&bytes);
        Self { bytes, base64 }
    }
}

impl Way {
    /// Goes the way once.
    pub(crate) fn go(&mut self) {
        (self.go)(&mut self.connection);
    }

    /// Goes it once and looks for the picture in the last answer, byte by byte.
    pub(crate) fn check(&mut self, picture: &Picture) {
        self.connection.keep = usize::MAX;
        self.go();
        self.connection.keep = KEPT;
        let answer = self.connection.body();
        let found =
            answer == picture.bytes || std::str::from_utf8(answer).is_ok_and(|answer| answer.contains(&picture.base64));
        assert!(found, "{}: the picture is not in the answer", self.name);
    }

    /// Whether the last answer is long enough to hold the picture.
    pub(crate) fn is_complete(&self, picture: &Picture) -> bool {
        self.connection.length() >= picture.bytes.len()
    }
}

/// All ways, those with an image last; each kind begins with `/runsync`, which the others are compared with.
pub(crate) fn ways(address: &str, image: &[u8]) -> Vec<Way> {
    let address = address.to_owned();
    let way = |name, edits, go: Box<dyn FnMut(&mut Connection)>| {
        let mut connection = Connection::to(&address);
        connection.keep = KEPT;
        Way {
            name,
            edits,
            connection,
            go,
        }
    };
    let image_text = format!("data:image/png;base64,{}", STANDARD.encode(image));
    let generations = "/v1/images/generations";
    vec![
        way(
            "/runsync",
            false,
            once(post(
                "/runsync",
                &json!({"input": {"prompt": PROMPT, "seed": 7, "return_images_as": "base64"}}),
            )),
        ),
        way(
            "OpenAI, b64_json",
            false,
            once(post(
                generations,
                &json!({"prompt": PROMPT, "response_format": "b64_json"}),
            )),
        ),
        way(
            "OpenAI, url, and GET of the link",
            false,
            open_ai_url(post(generations, &json!({"prompt": PROMPT, "response_format": "url"}))),
        ),
        way(
            "OpenAI, stream of b64_json",
            false,
            once(post(
                generations,
                &json!({"prompt": PROMPT, "response_format": "b64_json", "stream": true}),
            )),
        ),
        way("RunPod, run and events", false, events()),
        way("Gradio, join and stream", false, gradio()),
        way("KIE, generate, record-info, GET", false, kie()),
        way("Comfy API v2, jobs, events, GET", false, comfy_v2()),
        way(
            "/runsync, an image in",
            true,
            once(post(
                "/runsync",
                &json!({"input": {
                    "prompt": PROMPT,
                    "template": "qwen-image-edit-2511",
                    "images": [{"name": "photo.png", "image": image_text}],
                    "return_images_as": "base64",
                }}),
            )),
        ),
        way(
            "OpenAI, edits as JSON, b64_json",
            true,
            once(post(
                "/v1/images/edits",
                &json!({"prompt": PROMPT, "image": image_text, "response_format": "b64_json"}),
            )),
        ),
        way("OpenAI, edits as a form, b64_json", true, once(form(image))),
        way("Edit Plus, edit-image, status, GET", true, edit_plus(&image_text)),
    ]
}

fn post(path: &str, body: &Value) -> Vec<u8> {
    request("POST", path, JSON, body.to_string().as_bytes())
}

fn get(path: &str) -> Vec<u8> {
    request("GET", path, JSON, b"")
}

/// A request whose answer holds the picture, in a body or in a stream to its end.
fn once(request: Vec<u8>) -> Box<dyn FnMut(&mut Connection)> {
    Box::new(move |connection| {
        connection.ask(&request);
    })
}

fn open_ai_url(request: Vec<u8>) -> Box<dyn FnMut(&mut Connection)> {
    Box::new(move |connection| {
        let answer = parsed(connection.ask(&request));
        connection.ask(&get(path_of(&answer["data"][0]["url"])));
    })
}

/// The form that OpenAI's clients send.
fn form(image: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in [("prompt", PROMPT), ("response_format", "b64_json")] {
        let part = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(part.as_bytes());
    }
    let disposition = "Content-Disposition: form-data; name=\"image\"; filename=\"photo.png\"";
    let head = format!("--{BOUNDARY}\r\n{disposition}\r\nContent-Type: image/png\r\n\r\n");
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(image);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    let media_type = format!("multipart/form-data; boundary={BOUNDARY}");
    request("POST", "/v1/images/edits", &media_type, &body)
}

fn events() -> Box<dyn FnMut(&mut Connection)> {
    let run = post(
        "/run",
        &json!({"input": {"prompt": PROMPT, "return_images_as": "base64"}}),
    );
    Box::new(move |connection| {
        let answer = parsed(connection.ask(&run));
        let job = answer["id"].as_str().expect("an id");
        connection.ask(&get(&format!("/events/{job}")));
    })
}

/// A session of its own each time, as the clients do it. Its stream is read to the end, which is right behind the picture.
fn gradio() -> Box<dyn FnMut(&mut Connection)> {
    let mut sessions = 0;
    Box::new(move |connection| {
        sessions += 1;
        let session = format!("session{sessions}");
        connection.ask(&join(&session));
        connection.ask(&get(&format!("/gradio_api/queue/data?session_hash={session}")));
        // Near the picture's begin; the stream is that of the last event alone.
        let told = String::from_utf8_lossy(connection.body());
        assert!(told.contains("process_completed"), "{told}");
    })
}

/// Joins Gradio's queue.
pub(crate) fn join(session: &str) -> Vec<u8> {
    let data = json!([PROMPT, 7, false, "1:1", 4.0, 50, false]);
    post(
        "/gradio_api/queue/join",
        &json!({"data": data, "fn_index": 0, "session_hash": session}),
    )
}

fn kie() -> Box<dyn FnMut(&mut Connection)> {
    let generate = post(
        "/api/v1/qwen/generate",
        &json!({"prompt": PROMPT, "acceleration_level": "regular"}),
    );
    Box::new(move |connection| {
        let answer = parsed(connection.ask(&generate));
        let task = answer["data"]["taskId"].as_str().expect("an id");
        let record = get(&format!("/api/v1/qwen/record-info?taskId={task}"));
        let done = loop {
            let answer = parsed(connection.ask(&record));
            match answer["data"]["successFlag"].as_u64() {
                Some(0) => {}
                Some(1) => break answer,
                _ => panic!("{answer}"),
            }
        };
        connection.ask(&get(path_of(&done["data"]["imageUrl"])));
    })
}

/// As Comfy's SDKs do it that follow the events.
fn comfy_v2() -> Box<dyn FnMut(&mut Connection)> {
    let graph: Value =
        serde_json::from_str(include_str!("../../workflows/qwen-image-lightning.json")).expect("a graph");
    let submit = post("/api/v2/jobs", &json!({ "workflow": graph }));
    Box::new(move |connection| {
        let answer = parsed(connection.ask(&submit));
        let job = answer["id"].as_str().expect("an id");
        let told = connection.ask(&get(&format!("/api/v2/jobs/{job}/events")));
        let told = String::from_utf8_lossy(told);
        let (_, output) = told.split_once("event: output\ndata: ").expect("an output");
        let output = parsed(output.lines().next().expect("a line").as_bytes());
        let id = output["id"].as_str().expect("an id");
        connection.ask(&get(&format!("/api/v2/assets/{id}/content")));
    })
}

fn edit_plus(image: &str) -> Box<dyn FnMut(&mut Connection)> {
    let edit = post("/edit/edit-image", &json!({"image1_url": image, "prompt": PROMPT}));
    Box::new(move |connection| {
        let answer = parsed(connection.ask(&edit));
        let job = answer["job_id"].as_str().expect("an id");
        let status = get(&format!("/edit/status/{job}"));
        loop {
            let answer = parsed(connection.ask(&status));
            match answer["status"].as_str() {
                Some("queued" | "processing") => {}
                Some("completed") => break,
                _ => panic!("{answer}"),
            }
        }
        connection.ask(&get(&format!("/edit/download/{job}")));
    })
}

fn parsed(answer: &[u8]) -> Value {
    serde_json::from_slice(answer).expect("JSON")
}

/// What stands behind the host of a link.
fn path_of(url: &Value) -> &str {
    let url = url.as_str().expect("an address");
    let (_, rest) = url.split_once("://").expect("an address");
    &rest[rest.find('/').expect("a path")..]
}
