//! All dialects beside each other: the same request gives the same picture through each, and none is in another's way.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Cursor;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::Stream;
use futures_util::future::join_all;
use futures_util::stream::unfold;
use image::{ImageFormat, Rgb, RgbImage};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::gradio::small_sizes;
use crate::support::{Worker, shared, slow, text, until};

/// In what words a picture is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Runpod,
    OpenAi,
    Gradio,
    Kie,
    EditPlus,
}

const ALL: [Dialect; 5] = [
    Dialect::Runpod,
    Dialect::OpenAi,
    Dialect::Gradio,
    Dialect::Kie,
    Dialect::EditPlus,
];

/// A small picture to be made, which Edit Plus makes from a picture and the others from text.
struct Asked {
    prompt: String,
    seed: u32,
    steps: u32,
    cfg: u32,
}

impl Asked {
    /// One of many; nothing of it is in ComfyUI's cache.
    fn number(number: u32) -> Self {
        Self {
            prompt: format!("picture {number} of forty"),
            seed: 40_000 + 4 * number,
            steps: 1,
            cfg: 1,
        }
    }

    /// The request in the dialect's words. `1:1` is 64 by 64 in the templates of these tests.
    fn body(&self, dialect: Dialect) -> Value {
        let Self {
            prompt,
            seed,
            steps,
            cfg,
        } = self;
        match dialect {
            Dialect::Runpod => json!({"input": {"template": "qwen-image", "prompt": prompt, "seed": seed,
                "aspect_ratio": "1:1", "steps": steps, "cfg": cfg, "return_images_as": "base64"}}),
            Dialect::OpenAi => json!({"model": "Qwen/Qwen-Image", "prompt": prompt, "seed": seed, "size": "64x64",
                "quality": "high", "steps": steps, "guidance_scale": cfg, "response_format": "b64_json"}),
            Dialect::Gradio => json!({"data": [prompt, seed, false, "1:1", cfg, steps, false]}),
            Dialect::Kie => json!({"prompt": prompt, "seed": seed, "image_size": "square_hd",
                "acceleration_level": "none", "num_inference_steps": steps, "guidance_scale": cfg}),
            Dialect::EditPlus => json!({"prompt": prompt, "seed": seed, "image1_url": red(), "megapixels": 0.02,
                "steps": steps, "cfg": cfg}),
        }
    }

    /// Asks for the picture as the dialect's clients do.
    async fn picture(&self, worker: &Worker, dialect: Dialect) -> Vec<u8> {
        let body = self.body(dialect);
        match dialect {
            Dialect::Runpod => {
                let id = post(worker, "/run", &body, "/id").await;
                let answer = worker.end(&id).await.completed();
                decoded(&answer.images()[0]["data"])
            }
            Dialect::OpenAi => {
                let answer = worker
                    .send(Method::POST, "/v1/images/generations", body.to_string())
                    .await;
                decoded(&answer.body["data"][0]["b64_json"])
            }
            Dialect::Gradio => {
                let event = post(worker, "/gradio_api/call/infer", &body, "/event_id").await;
                let told = told(worker, &event).await;
                // Before that there may be heartbeats.
                let (_, data) = told
                    .split_once("event: complete\ndata: ")
                    .unwrap_or_else(|| panic!("{told}"));
                let data: Value = serde_json::from_str(data.trim()).expect("JSON");
                decoded(&data[0])
            }
            Dialect::Kie => {
                let task = post(worker, "/api/v1/qwen/generate", &body, "/data/taskId").await;
                let path = format!("/api/v1/qwen/record-info?taskId={task}");
                let record = worker.ask_until(&path, |record| record["successFlag"] != 0).await;
                let url = text(&record, "imageUrl").strip_prefix(&worker.url);
                file(worker, url.unwrap_or_else(|| panic!("{record:#}"))).await
            }
            Dialect::EditPlus => {
                let id = post(worker, "/edit/edit-image", &body, "/job_id").await;
                edited(worker, &id).await
            }
        }
    }
}

/// Sends a request; gives the id in the answer, which is at the pointer.
async fn post(worker: &Worker, path: &str, body: &Value, pointer: &str) -> String {
    let answer = worker.send(Method::POST, path, body.to_string()).await;
    let id = answer.body.pointer(pointer).and_then(Value::as_str);
    id.unwrap_or_else(|| panic!("{path}: {:#}", answer.body)).to_owned()
}

/// The picture of an Edit Plus job, at its end.
async fn edited(worker: &Worker, id: &str) -> Vec<u8> {
    let is_over = |status: &Value| ["completed", "error"].contains(&text(status, "status"));
    let status = worker.ask_until(&format!("/edit/status/{id}"), is_over).await;
    file(worker, text(&status, "download_url")).await
}

async fn file(worker: &Worker, path: &str) -> Vec<u8> {
    let response = worker.get(path).await;
    assert_eq!(response.status(), 200, "{path}");
    response.bytes().await.expect("a file").to_vec()
}

/// The events of a Gradio event, from its first to its last.
async fn told(worker: &Worker, event: &str) -> String {
    let stream = worker.get(&format!("/gradio_api/call/infer/{event}")).await;
    stream.text().await.expect("events")
}

/// What is in base64, or in a data URI.
#[track_caller]
fn decoded(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    let content = STANDARD.decode(text.rsplit(',').next().unwrap_or_default());
    content
        .ok()
        .filter(|content| !content.is_empty())
        .unwrap_or_else(|| panic!("no picture: {value:#}"))
}

fn pixels(content: &[u8]) -> (u32, u32, Vec<u8>) {
    let picture = image::load_from_memory(content).expect("a picture").to_rgb8();
    (picture.width(), picture.height(), picture.into_raw())
}

fn red_png() -> Vec<u8> {
    let mut content = Cursor::new(Vec::new());
    let picture = RgbImage::from_pixel(32, 32, Rgb([200, 0, 0]));
    picture.write_to(&mut content, ImageFormat::Png).expect("a PNG");
    content.into_inner()
}

fn red() -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(red_png()))
}

#[tokio::test]
async fn the_same_seed_and_prompt_give_the_same_bytes_through_every_dialect() {
    let (shared, templates) = (shared().await, small_sizes());
    let folder = templates.path().display().to_string();
    let worker = Worker::attached(&shared.comfy_url().await, &[("WORKFLOWS_DIR", &folder)]).await;
    let asked = Asked {
        prompt: "a red fox, 雪の中".to_owned(),
        seed: 41,
        steps: 2,
        cfg: 4,
    };
    let expected = asked.picture(&worker, Dialect::Runpod).await;
    assert_eq!(pixels(&expected).0, 64);
    for dialect in [Dialect::OpenAi, Dialect::Gradio, Dialect::Kie] {
        assert!(asked.picture(&worker, dialect).await == expected, "{dialect:?}");
    }
}

/// The names of the file and of the input image are each dialect's own; they are not in the PNG, which holds no metadata.
#[tokio::test]
async fn the_same_edit_gives_the_same_bytes_through_every_dialect_that_edits() {
    let shared = shared().await;
    let worker = Worker::attached(&shared.comfy_url().await, &[]).await;
    let (prompt, seed) = ("make it blue", 43);
    let input = json!({"template": "qwen-image-edit-2511", "prompt": prompt, "seed": seed, "width": 256, "height": 256,
        "steps": 1, "cfg": 1, "images": [{"name": "red.png", "image": red()}], "return_images_as": "base64"});
    let answer = worker.run(input).await.completed();
    let expected = decoded(&answer.images()[0]["data"]);
    let (width, height, _) = pixels(&expected);
    assert_eq!((width, height), (256, 256));
    let body = json!({"model": "Qwen/Qwen-Image-Edit-2511", "prompt": prompt, "seed": seed, "size": "256x256",
        "quality": "high", "steps": 1, "guidance_scale": 1, "image": red(), "response_format": "b64_json"});
    let answer = worker.send(Method::POST, "/v1/images/edits", body.to_string()).await;
    assert!(decoded(&answer.body["data"][0]["b64_json"]) == expected, "OpenAI");
    // A sixteenth of a megapixel.
    let body = json!({"model": "2511", "prompt": prompt, "seed": seed, "megapixels": 0.0625, "steps": 1, "cfg": 1,
        "image1_url": red()});
    let id = post(&worker, "/edit/edit-image", &body, "/job_id").await;
    assert!(edited(&worker, &id).await == expected, "Edit Plus");
}

/// Graphs in place of the templates that the dialects run: the test nodes make a picture at once, as bright as its seed
/// says.
pub(crate) fn quick_templates() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("a file");
    let mut graph = json!({
        "positive": {"class_type": "PrimitiveString", "inputs": {"value": ""}},
        "negative": {"class_type": "PrimitiveString", "inputs": {"value": ""}},
        "guidance": {"class_type": "PrimitiveFloat", "inputs": {"value": 1}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "sample": {"class_type": "SlowProgress", "inputs":
            {"steps": 1, "ms_per_step": 0, "preview": false, "seed": 0}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["sample", 0], "filename_prefix": "quick"}},
    });
    let bindings = r#"
        title = "Quick"
        kind = "KIND"
        [inputs]
        prompt = "positive.value"
        negative_prompt = "negative.value"
        seed = "sample.seed"
        steps = "sample.steps"
        cfg = "guidance.value"
        filename_prefix = "save.filename_prefix"
        SIZE
        [output]
        node = "save"
        images = "images"
    "#;
    let size = "width = 'latent.width'\nheight = 'latent.height'\n[sizes]\n'1:1' = [64, 64]";
    let (generate, edit) = ("qwen-image", "qwen-image-edit-2511");
    write(&format!("{generate}.json"), graph.to_string());
    write(
        &format!("{generate}.bindings.toml"),
        bindings.replace("KIND", "generate").replace("SIZE", size),
    );
    for number in 1..=3 {
        graph[format!("image{number}")] = json!({"class_type": "LoadImage", "inputs": {"image": "example.png"}});
    }
    let images = "[latent]\nnode = 'latent'\n[images]\nnodes = ['image1', 'image2', 'image3']\nat_least = 1";
    write(&format!("{edit}.json"), graph.to_string());
    write(
        &format!("{edit}.bindings.toml"),
        bindings.replace("KIND", "edit").replace("SIZE", images),
    );
    folder
}

/// Something whole that does not end until it is told to. It drips meanwhile, as silence would be given up.
fn endless(begin: Vec<u8>, told: watch::Receiver<bool>) -> impl Stream<Item = Result<Vec<u8>, Infallible>> + Send {
    unfold(Some((begin, told)), async |state| {
        let (piece, mut told) = state?;
        let is_told = tokio::time::timeout(Duration::from_secs(1), told.wait_for(|told| *told))
            .await
            .is_ok();
        let next = (!is_told).then(|| (b" ".to_vec(), told));
        Some((Ok(piece), next))
    })
}

/// Serves a picture that does not end until it is told to; gives its address.
async fn serve_slowly(told: watch::Receiver<bool>) -> String {
    let picture = async move || axum::body::Body::from_stream(endless(red_png(), told.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/a.png", listener.local_addr().expect("an address"));
    let router = Router::new().route("/a.png", get(picture));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Jobs that wait or run.
async fn in_hand(worker: &Worker) -> u64 {
    let jobs = &worker.ask("/health").await.body["jobs"];
    let count = |name: &str| jobs[name].as_u64().expect("a count");
    count("inQueue") + count("inProgress")
}

/// Numbers 0 to 3 are the odd ones: one is cancelled while it runs, one while it waits, one is uploaded for as long as
/// the others take, and one waits as long for its image.
#[tokio::test]
async fn forty_requests_in_all_dialects_at_once() {
    let (shared, templates) = (shared().await, quick_templates());
    let folder = templates.path().display().to_string();
    let vars = [
        ("WORKFLOWS_DIR", folder.as_str()),
        ("ALLOW_PRIVATE_URLS", "127.0.0.1"),
        ("IMAGE_TIMEOUT_S", "600"),
    ];
    let worker = Worker::attached(&shared.comfy_url().await, &vars).await;

    let running = worker.accept(slow(100_000, 20, 40_000)).await;
    worker.has_a_job_running().await;
    let body = Asked::number(1).body(Dialect::Gradio);
    let waiting = post(&worker, "/gradio_api/call/infer", &body, "/event_id").await;
    let (tell, told_to) = watch::channel(false);
    let body = Asked::number(2).body(Dialect::OpenAi).to_string().into_bytes();
    let body = reqwest::Body::wrap_stream(endless(body, told_to.clone()));
    let upload = worker.send(Method::POST, "/v1/images/generations", body);
    let mut body = Asked::number(3).body(Dialect::EditPlus);
    body["image1_url"] = json!(serve_slowly(told_to).await);
    let late = post(&worker, "/edit/edit-image", &body, "/job_id").await;

    let others = (4..40_u32).zip(ALL.into_iter().cycle());
    let pictures = join_all(others.map(async |(number, dialect)| {
        let picture = Asked::number(number).picture(&worker, dialect).await;
        (number, picture)
    }));
    let cancelled = async {
        until("all are taken in but the one that is uploaded", async || {
            in_hand(&worker).await == 39
        })
        .await;
        let body = json!({"event_id": waiting});
        let answer = worker.send(Method::POST, "/gradio_api/cancel", body.to_string()).await;
        assert_eq!(answer.body, json!({"success": true}));
        let answer = worker.send(Method::POST, &format!("/cancel/{running}"), "").await;
        assert_eq!(text(&answer.body, "status"), "CANCELLED");
    };
    let rest = async {
        let (pictures, ()) = tokio::join!(pictures, cancelled);
        assert_eq!(worker.status(&running).await, "CANCELLED");
        assert_eq!(worker.status(&waiting).await, "CANCELLED");
        assert_eq!(in_hand(&worker).await, 1, "the one that waits for its image");
        tell.send(true).expect("they wait");
        pictures
    };
    let (uploaded, pictures) = tokio::join!(upload, rest);
    let mut pictures: BTreeMap<u32, Vec<u8>> = pictures.into_iter().collect();
    pictures.insert(2, decoded(&uploaded.body["data"][0]["b64_json"]));
    pictures.insert(3, edited(&worker, &late).await);

    assert_eq!(pictures.len(), 38);
    for (number, picture) in &pictures {
        let (width, height, seen) = pixels(picture);
        assert_eq!((width, height), (64, 64), "{number}");
        let expected = u8::try_from(Asked::number(*number).seed % 256).expect("a byte");
        // ComfyUI rounds.
        let is_its_own = seen.iter().all(|value| value.abs_diff(expected) < 2);
        assert!(is_its_own, "{number}: {} instead of {expected}", seen[0]);
    }
}
