//! Uploaded files on their way to a ComfyUI on this machine, and to one elsewhere.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path as Segment, State};
use axum::routing::{get, post};
use base64::Engine as _;
use serde_json::json;
use tokio::sync::watch;

use super::super::Executor;
use super::super::inputs::{Stage, Uploads};
use super::super::testing::{executor_on, owner};
use super::*;
use crate::comfy::{Boot, Comfy, Folders};
use crate::config::Config;
use crate::encoding::STANDARD;
use crate::job::{ContentHash, Delivery, JobId, JobRequest, ModelPlace, Work};
use crate::models::Models;
use crate::models::locate::Places;
use crate::net::testing::serve;
use crate::telemetry::report::SilentReporter;
use crate::workflow::ModelCatalog;

const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const A: &str = "0192f0c1-7d5e-7c3a-9f10-0123456789aa";
const B: &str = "0192f0c1-7d5e-7c3a-9f10-0123456789ab";

fn pixel() -> Vec<u8> {
    STANDARD.decode(PIXEL).unwrap()
}

/// Keeps the content, as an upload does, and gives what a request makes of a reference to it.
fn uploaded(data: &Path, id: &str, file_path: &str, content: &[u8]) -> InputImage {
    let hash = ContentHash::of(content);
    let path = Blobs::new(data).path(hash);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
    let model = ModelPlace::of(file_path).map(Result::unwrap);
    let asset = AssetContent {
        id: id.to_owned(),
        hash,
        bytes: content.len() as u64,
        content_type: "application/octet-stream".to_owned(),
        file_path: Some(file_path.to_owned()),
        model,
    };
    InputImage {
        name: asset.name().unwrap(),
        content: ImageContent::Asset(Box::new(asset)),
        origin: Origin::Files,
    }
}

fn request(graph: &Value, images: Vec<InputImage>) -> JobRequest {
    JobRequest {
        work: Work::Workflow(Graph::parse(graph).unwrap()),
        images,
        delivery: Delivery {
            return_workflow: true,
            ..Delivery::default()
        },
        org_api_key: None,
        extra_data: serde_json::Map::new(),
        warnings: Vec::new(),
    }
}

/// A graph in which the first file stands in a loader and the second at some depth.
fn graph_of(first: &str, second: &str) -> Value {
    json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": first}},
        "2": {"class_type": "Custom", "inputs": {"x": {"y": [[second], 1]}, "text": "no file"}},
        "3": {"class_type": "Keep", "inputs": {"images": ["1", 0], "more": ["2", 0]}},
    })
}

/// What a ComfyUI was sent.
#[derive(Debug, Default)]
struct Sent {
    /// The bodies of uploads.
    files: Vec<Bytes>,
    prompts: Vec<Value>,
}

type Shared = Arc<Mutex<Sent>>;

async fn described(Segment(class): Segment<String>) -> String {
    let (inputs, outputs) = match class.as_str() {
        "LoadImage" => (
            json!({"image": [["example.png"], {"image_upload": true}]}),
            json!(["IMAGE"]),
        ),
        "LoraLoaderModelOnly" => (json!({"lora_name": [["a.safetensors"]]}), json!(["MODEL"])),
        "Custom" => (json!({"x": ["ANY", {}], "text": ["STRING", {}]}), json!(["IMAGE"])),
        "Keep" => (json!({"images": ["IMAGE"], "more": ["IMAGE"]}), json!([])),
        _ => return "{}".to_owned(),
    };
    let module = if class == "Custom" { "custom_nodes.x" } else { "nodes" };
    let info = json!({
        "input": {"required": inputs, "optional": {"any": ["*"]}}, "output": outputs, "name": class, "output_node": class == "Keep",
        "python_module": module,
    });
    json!({ class: info }).to_string()
}

async fn upload(State(sent): State<Shared>, body: Bytes) -> String {
    let text = String::from_utf8_lossy(&body);
    let after = |mark: &str| text.split_once(mark).map(|(_, rest)| rest.to_owned()).unwrap();
    let name = after("filename=\"").split('"').next().unwrap().to_owned();
    let subfolder = after("name=\"subfolder\"\r\n\r\n");
    let stored = json!({"name": name, "subfolder": subfolder.split('\r').next().unwrap(), "type": "input"});
    sent.lock().unwrap().files.push(body);
    stored.to_string()
}

async fn prompt(State(sent): State<Shared>, body: Bytes) -> &'static str {
    sent.lock()
        .unwrap()
        .prompts
        .push(serde_json::from_slice(&body).unwrap());
    r#"{"node_errors": {}}"#
}

async fn history(Segment(id): Segment<String>) -> String {
    json!({id: {"outputs": {}, "status": {"status_str": "success", "messages": []}}}).to_string()
}

/// Describes three classes and a loader of models, and says of each prompt that it has ended well.
async fn comfy(most: usize) -> (String, Shared) {
    let shared = Shared::default();
    let router = Router::new()
        .route("/system_stats", get(|| async { r#"{"system": {}}"# }))
        .route("/object_info", get(|| async { "{}" }))
        .route("/object_info/{class}", get(described))
        .route("/upload/image", post(upload))
        .route("/prompt", post(prompt))
        .route("/history/{id}", get(history))
        .route(
            "/queue",
            get(|| async { r#"{"queue_running": [], "queue_pending": []}"# }),
        )
        .layer(DefaultBodyLimit::max(most))
        .with_state(Arc::clone(&shared));
    (serve(router).await, shared)
}

async fn attached(data: &Path, most: usize) -> (Arc<Executor>, Shared) {
    let (url, sent) = comfy(most).await;
    (executor_on(Comfy::attached(&url.parse().unwrap()).unwrap(), data), sent)
}

async fn run(executor: &Executor, request: JobRequest) -> Result<crate::job::Outcome, JobError> {
    let (id, owner) = (JobId::new(), owner());
    owner.turn.cancel();
    let ran = executor.run(&id, request, &owner);
    tokio::time::timeout(Duration::from_mins(1), ran).await.expect("an end")
}

#[tokio::test]
async fn they_are_sent_to_a_comfyui_elsewhere_and_named_at_any_depth() {
    let data = tempfile::tempdir().unwrap();
    let (executor, sent) = attached(data.path(), 10_000_000).await;
    let large: Vec<u8> = (0..=u8::MAX).cycle().take(3_000_001).collect();
    let images = vec![
        uploaded(data.path(), A, "input/cat.png", &pixel()),
        uploaded(data.path(), B, "wörld.bin", &large),
    ];
    let (first, second) = (images[0].name.to_string(), images[1].name.to_string());
    let graph = graph_of(&first, &second);
    let outcome = run(&executor, request(&graph, images)).await.unwrap();
    // Its owner knows none of the worker's folders.
    assert_eq!(outcome.workflow, Some(graph));
    assert!(outcome.warnings.is_empty(), "{:?}", outcome.warnings);
    let sent = sent.lock().unwrap();
    let prompt = &sent.prompts[0]["prompt"];
    let (image, deep) = (&prompt["1"]["inputs"]["image"], &prompt["2"]["inputs"]["x"]["y"][0][0]);
    assert!(image.as_str().unwrap().starts_with("qwen-image-worker/"), "{image}");
    assert!(image.as_str().unwrap().ends_with(&format!("/{A}/cat.png")), "{image}");
    assert!(deep.as_str().unwrap().contains(&format!("/{B}/w")), "{deep}");
    assert!(sent.files[1].windows(large.len()).any(|part| part == large));
}

#[tokio::test]
async fn what_is_gone_broken_or_too_large_is_told_by_its_name() {
    let data = tempfile::tempdir().unwrap();
    let (executor, sent) = attached(data.path(), 10_000).await;
    let good = uploaded(data.path(), A, "cat.png", &pixel());
    let error_of = async |other: InputImage, is_picture: bool| {
        let (first, second) = (good.name.to_string(), other.name.to_string());
        let graph = if is_picture {
            graph_of(&second, &first)
        } else {
            graph_of(&first, &second)
        };
        run(&executor, request(&graph, vec![good.clone(), other])).await
    };
    let gone = uploaded(data.path(), B, "dog.png", b"dog");
    std::fs::remove_file(Blobs::new(data.path()).path(ContentHash::of(b"dog"))).unwrap();
    let error = error_of(gone, false).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidRequest);
    assert!(
        error.message.contains(B) && error.message.contains("`dog.png`"),
        "{}",
        error.message
    );
    assert!(error.hint.unwrap().contains("Upload it again"));

    let half = uploaded(data.path(), B, "half.png", &pixel()[..40]);
    let error = error_of(half.clone(), true).await.unwrap_err();
    assert!(error.message.contains("half.png` is cut off"), "{}", error.message);
    let text = uploaded(data.path(), B, "text.txt", b"a fox");
    assert!(error_of(text.clone(), true).await.is_err());
    assert!(sent.lock().unwrap().prompts.is_empty());
    // Other nodes take what they take.
    assert!(error_of(half, false).await.is_ok());
    assert!(error_of(text, false).await.is_ok());

    let large = uploaded(data.path(), B, "large.bin", &vec![7; 20_000]);
    let error = error_of(large, false).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge, "{}", error.full_text());
}

#[tokio::test]
async fn a_request_is_checked_before_its_files_are_there() {
    let data = tempfile::tempdir().unwrap();
    let (executor, _) = attached(data.path(), 1000).await;
    let check = async |graph: Value, images| {
        executor
            .check_request(&request(&graph, images))
            .await
            .expect("an answer")
    };
    let cat = uploaded(data.path(), A, "cat.png", &pixel());
    let style = uploaded(data.path(), B, "models/loras/style.safetensors", b"weights");
    let (cat_name, style_name) = (cat.name.to_string(), style.name.to_string());
    let with = |file: &str, lora: &str| {
        let mut graph = graph_of(file, &cat_name);
        graph["4"] = json!({"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": lora}});
        graph["3"]["inputs"]["any"] = json!(["4", 0]);
        graph
    };
    let both = || vec![cat.clone(), style.clone()];
    assert_eq!(check(with(&cat_name, &style_name), both()).await, Ok(()));
    // A file that stands in the graph, taken out of it or not.
    let taken = InputImage::from_bytes(ImageName::parse("graph_1.png").unwrap(), pixel().into()).unwrap();
    let three = vec![cat.clone(), style.clone(), taken];
    assert_eq!(check(with("graph_1.png", &style_name), three).await, Ok(()));
    assert_eq!(check(with(PIXEL, &style_name), both()).await, Ok(()));
    assert!(check(with("graph_1.png", &style_name), both()).await.is_err());
    let error = check(with(&cat_name, &cat_name), both()).await.unwrap_err();
    assert!(error.full_text().contains("node 4"), "{}", error.full_text());
    // What was described once is not changed by that.
    let error = check(with(&cat_name, &style_name), vec![cat.clone()])
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::ModelMissing);
}

/// A stage on a ComfyUI of this machine.
struct Local {
    data: tempfile::TempDir,
    comfy: Comfy,
    models: Models,
    blobs: Blobs,
    connection: crate::comfy::Connection,
    _boot: watch::Sender<Boot>,
}

impl Local {
    async fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let (boot, started) = watch::channel(Boot::Preparing);
        let path = |name: &str| data.path().join(name);
        let folders = Folders {
            output: path("output"),
            input: path("input"),
            temp: path("temp"),
            are_ours: true,
            ..Folders::default()
        };
        let vars = [
            ("HOME", data.path().display().to_string()),
            ("NETWORK_VOLUMES", "none".to_owned()),
        ];
        let config = Config::from_vars(vars.map(|(name, value)| (name.to_owned(), value))).unwrap();
        let places = Arc::new(Places::new(&config, Some(&path("models")), &[]));
        let catalog = ModelCatalog::builtin().unwrap();
        let (url, _) = comfy(1000).await;
        let elsewhere = Comfy::attached(&url.parse().unwrap()).unwrap();
        Self {
            models: Models::new(catalog, Some(places), &config.models, Arc::new(SilentReporter)).unwrap(),
            blobs: Blobs::new(data.path()),
            comfy: Comfy::supervised(started, folders),
            connection: elsewhere.connection().await.unwrap(),
            data,
            _boot: boot,
        }
    }

    async fn upload(&self, pictures: &[&str], images: Vec<InputImage>) -> Result<Uploads, JobError> {
        let pictures = pictures.iter().map(|name| (*name).to_owned()).collect();
        let stage = Stage {
            comfy: &self.comfy,
            models: &self.models,
            blobs: &self.blobs,
            folder: "job",
            pictures: &pictures,
        };
        stage.upload(&self.connection, images).await
    }

    /// Waits until the folder has nothing.
    async fn is_empty(&self, folder: &str) {
        let path = self.data.path().join(folder);
        for _ in 0..500 {
            if std::fs::read_dir(&path).map_or(0, Iterator::count) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} has something", path.display());
    }
}

#[tokio::test]
async fn on_this_machine_a_copy_is_there_as_long_as_the_job() {
    let local = Local::new().await;
    let cat = uploaded(local.data.path(), A, "cat", &pixel());
    let chair = uploaded(local.data.path(), B, "chair", b"glTF\x02\0\0\0\x0c\0\0\0");
    let style = uploaded(local.data.path(), B, "models/loras/style.safetensors", b"weights");
    let names = [&cat, &chair, &style].map(|image| image.name.to_string());
    let uploads = local.upload(&[&names[0]], vec![cat, chair, style]).await.unwrap();
    let mut graph = Graph::parse(&json!({"1": {"class_type": "X", "inputs": {"a": &names[..]}}})).unwrap();
    uploads.name_assets(&mut graph);
    let digits = &ContentHash::of(b"weights").hex()[..16];
    assert_eq!(
        graph.nodes["1"].inputs["a"],
        json!([
            format!("qwen-image-worker/job/{A}/cat"),
            format!("qwen-image-worker/job/{B}/chair.glb"),
            format!("qwen-image-worker-assets/{digits}/style.safetensors"),
        ])
    );
    let copy = local
        .data
        .path()
        .join("input/qwen-image-worker/job")
        .join(A)
        .join("cat");
    assert_eq!(std::fs::read(&copy).unwrap(), pixel());
    // A node that writes into its input changes no one's file.
    std::fs::write(&copy, "changed").unwrap();
    assert_eq!(
        std::fs::read(local.blobs.path(ContentHash::of(&pixel()))).unwrap(),
        pixel()
    );
    drop(uploads);
    local.is_empty("input/qwen-image-worker").await;
    local.is_empty("models/loras/qwen-image-worker-assets").await;
}

#[tokio::test]
async fn a_tiny_picture_is_made_into_one_that_is_loaded() {
    let local = Local::new().await;
    let mut content = std::io::Cursor::new(Vec::new());
    let picture = image::DynamicImage::new_luma8(3, 3);
    picture.write_to(&mut content, image::ImageFormat::Png).unwrap();
    let content = content.into_inner();
    for is_picture in [true, false] {
        let tiny = uploaded(local.data.path(), A, "tiny.png", &content);
        let name = tiny.name.to_string();
        let pictures: &[&str] = if is_picture { &[&name] } else { &[] };
        let uploads = local.upload(pictures, vec![tiny]).await.unwrap();
        let copy = local.data.path().join("input").join(&uploads.names[0].1);
        assert_eq!(std::fs::read(copy).unwrap() != content, is_picture);
        drop(uploads);
        local.is_empty("input/qwen-image-worker").await;
    }
}

#[tokio::test]
async fn nothing_is_left_where_one_of_several_is_gone() {
    let local = Local::new().await;
    let cat = uploaded(local.data.path(), A, "cat.png", &pixel());
    let style = uploaded(local.data.path(), B, "models/loras/style.safetensors", b"weights");
    let gone = uploaded(local.data.path(), B, "dog.png", b"dog");
    std::fs::remove_file(local.blobs.path(ContentHash::of(b"dog"))).unwrap();
    assert!(local.upload(&[], vec![cat, style, gone]).await.is_err());
    local.is_empty("input/qwen-image-worker").await;
    local.is_empty("models/loras/qwen-image-worker-assets").await;
}

#[tokio::test]
async fn a_file_that_is_not_what_was_uploaded_is_not_taken() {
    let local = Local::new().await;
    let cat = uploaded(local.data.path(), A, "cat.png", &pixel());
    std::fs::write(local.blobs.path(ContentHash::of(&pixel())), "half").unwrap();
    let error = local.upload(&[], vec![cat]).await.unwrap_err();
    assert!(error.message.contains("is damaged"), "{}", error.message);
}
