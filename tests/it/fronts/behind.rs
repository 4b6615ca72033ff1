//! A real worker of ours behind RunPod's API, and behind OpenAI's: what a front gives is what they have made.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::RwLockReadGuard;

use crate::images::{encoded, load, picture};
use crate::support::bucket::{BucketServer, SECRET};
use crate::support::deployed::Deployed;
use crate::support::elsewhere::{Front, SENDS, assert_png, images, runpod};
use crate::support::images_api::IMAGES_KEY;
use crate::support::platform::Platform;
use crate::support::receiver::Receiver;
use crate::support::runpod_api::{Route, RunpodApi};
use crate::support::{Worker, http, json_at, shared, slow, text, until};

/// What lets a front and a worker reach this machine.
pub(super) const AT_HOME: (&str, &str) = ("ALLOW_PRIVATE_URLS", "127.0.0.1");

/// A RunPod endpoint with one real worker on the ComfyUI that the tests share.
pub(super) struct Behind {
    pub(super) api: RunpodApi,
    pub(super) platform: Arc<Platform>,
    comfy_url: String,
    _worker: Deployed,
    _data: TempDir,
    /// Held, so that no other test ends ComfyUI meanwhile.
    _shared: RwLockReadGuard<'static, Worker>,
}

impl Behind {
    pub(super) async fn start() -> Self {
        let shared = shared().await;
        let comfy_url = shared.comfy_url().await;
        let platform = Arc::new(Platform::start().await);
        let data = tempfile::tempdir().expect("a folder");
        let vars = [
            ("COMFYUI_URL", comfy_url.as_str()),
            ("PROGRESS_INTERVAL_MS", "50"),
            AT_HOME,
        ];
        Self {
            api: RunpodApi::before(&platform).await,
            _worker: Deployed::start(&platform, data.path(), &vars),
            platform,
            comfy_url,
            _data: data,
            _shared: shared,
        }
    }

    /// The endpoint as an entry of `ENGINES`.
    pub(super) fn engine(&self) -> String {
        runpod("runpod-a", &self.api.url, "worker = \"qwen-image-worker\"")
    }

    pub(super) async fn front(&self, more: &[(&str, &str)]) -> Front {
        Front::start(&self.engine(), &[&[AT_HOME], more].concat()).await
    }

    /// Whether ComfyUI runs or keeps waiting a graph with this seed.
    pub(super) async fn comfyui_has(&self, seed: u32) -> bool {
        let queue = json_at(&format!("{}queue", self.comfy_url)).await;
        let lists = [&queue["queue_running"], &queue["queue_pending"]];
        let mut prompts = lists.into_iter().filter_map(Value::as_array).flatten();
        prompts.any(|prompt| prompt[2]["1"]["inputs"]["seed"] == seed)
    }

    /// All went as it should on both sides.
    #[track_caller]
    pub(super) fn settled(&self) {
        self.api.settled();
        self.platform.settled();
    }
}

#[tokio::test]
async fn a_template_and_a_graph_with_a_picture_are_done_at_the_endpoint() {
    let behind = Behind::start().await;
    let front = behind.front(&[]).await;
    let input = json!({"prompt": "a harbour", "template": "qwen-image-lightning-4", "width": 128, "height": 96,
        "steps": 2, "seed": 8_801});
    let answer = front.runsync(&input).await.by("runpod-a");
    assert_png(&front.picture(&answer).await, 128, 96);

    let content = encoded(&picture([0, 250, 0]), image::ImageFormat::Png);
    let uri = format!("data:image/png;base64,{}", STANDARD.encode(&content));
    let input = json!({"workflow": load(&["in.png"]), "images": [{"name": "in.png", "image": uri}],
        "return_images_as": "base64"});
    let answer = front.runsync(&input).await.by("runpod-a");
    let made = STANDARD.decode(text(&answer.images()[0], "data")).expect("base64");
    let pixels = |content: &[u8]| image::load_from_memory(content).expect("a picture").to_rgb8();
    assert_eq!(pixels(&made), pixels(&content), "what was sent is what came back");

    // What the endpoint was asked for.
    let runs = behind.api.calls(Route::Run);
    assert_eq!(runs.len(), 2);
    for run in &runs {
        let body = run.json();
        assert!(
            body["input"]["workflow"].is_object() && body["input"]["prompt"].is_null(),
            "{body:#}"
        );
        let policy = &body["policy"];
        let limit = policy["executionTimeout"]
            .as_u64()
            .unwrap_or_else(|| panic!("no limit: {policy}"));
        assert!((5_000..=900_000).contains(&limit), "{policy}");
        assert!(policy["ttl"].as_u64() >= Some(limit), "{policy}");
    }
    let sent = &runs[1].json()["input"]["images"][0];
    assert!(
        text(sent, "image").starts_with("data:image/"),
        "{:.200}",
        sent.to_string()
    );
    // What it never needs it never made.
    assert!(!front.data().join("nothing").exists());
    assert!(front.data().join("front/output").is_dir());
    behind.settled();
}

#[tokio::test]
async fn progress_is_seen_at_the_front_and_a_webhook_tells_the_end() {
    let behind = Behind::start().await;
    let front = behind.front(&[]).await;
    let receiver = Receiver::start().await;
    let body = json!({"input": {"workflow": slow(120, 60, 88_020)}, "webhook": receiver.url});
    let id = front.served.accept(body).await;
    until("a step is told", async || {
        let status = front.status(&id).await;
        let progress = &status["progress"];
        assert_ne!(
            status["status"], "COMPLETED",
            "it was over before a step was told: {status:#}"
        );
        let step = progress["step"].as_u64().or_else(|| progress["percent"].as_u64());
        status["status"] == "IN_PROGRESS" && step > Some(0)
    })
    .await;
    let end = front.end(&id).await.completed();
    until("the webhook came", async || !receiver.came().is_empty()).await;
    let told = receiver.came()[0].body.clone();
    assert_eq!(
        (&told["id"], &told["status"]),
        (&json!(id), &json!("COMPLETED")),
        "{told:#}"
    );
    assert_eq!(told["output"]["engine"], "runpod-a", "{told:#}");
    assert_eq!(told["output"]["images"], end.body["output"]["images"]);
    assert_eq!(receiver.came().len(), 1);
    behind.settled();
}

#[tokio::test]
async fn a_cancel_at_the_front_ends_the_job_at_comfyui() {
    let behind = Behind::start().await;
    let front = behind.front(&[]).await;
    let id = front.accept(&json!({"workflow": slow(100_000, 50, 88_030)})).await;
    until("ComfyUI has it", async || behind.comfyui_has(88_030).await).await;
    front.cancel(&id).await;
    until("ComfyUI has it no more", async || !behind.comfyui_has(88_030).await).await;
    assert_eq!(text(&front.status(&id).await, "status"), "CANCELLED");
    let cancels = behind.api.calls(Route::Cancel);
    assert!(!cancels.is_empty() && cancels.iter().all(|call| call.job == behind.api.taken()[0]));
    // The endpoint goes on.
    let after = front
        .runsync(&json!({"workflow": slow(1, 1, 88_031)}))
        .await
        .by("runpod-a");
    assert_eq!(after.images().len(), 1);
    behind.settled();
}

#[tokio::test]
async fn a_front_that_is_killed_goes_on_with_the_job_that_runs_there() {
    let behind = Behind::start().await;
    let front = behind.front(&[]).await;
    let id = front.accept(&json!({"workflow": slow(100, 60, 88_040)})).await;
    until("ComfyUI has it", async || behind.comfyui_has(88_040).await).await;
    let front = front.killed_and_started(&behind.engine(), &[AT_HOME]).await;
    let end = front.end(&id).await.completed();
    assert_eq!(end.body["output"]["engine"], "runpod-a", "{:#}", end.body);
    assert!(image::load_from_memory(&front.picture(&end).await).is_ok());
    assert_eq!(behind.api.count(Route::Run), 1, "a job is sent once");
    behind.settled();
}

/// A picture that no PNG makes smaller: three bytes for each pixel.
fn noise(side: u32) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let noise = image::RgbImage::from_fn(side, side, |_, _| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let [red, green, blue, ..] = state.to_le_bytes();
        image::Rgb([red, green, blue])
    });
    encoded(&noise, image::ImageFormat::Png)
}

#[tokio::test]
async fn pictures_that_no_request_can_carry_travel_by_the_bucket() {
    let behind = Behind::start().await;
    let bucket = BucketServer::start().await;
    let content = noise(1_700);
    assert!(content.len() > 8_000_000, "{}", content.len());
    let scaled = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "large.png"}},
        "2": {"class_type": "ImageScale", "inputs": {
            "image": ["1", 0], "upscale_method": "area", "width": 64, "height": 48, "crop": "disabled"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "fronts/scaled"}},
    });
    let image = json!({"name": "large.png", "image": STANDARD.encode(&content)});
    let input = json!({"workflow": scaled, "images": [image], "return_images_as": "base64"});

    let front = behind.front(&[]).await;
    let refused = front.runsync(&input).await;
    refused.failed(&["runpod-a", "bucket"]);
    assert_eq!(refused.answer.status, 413, "{:#}", refused.answer.body);
    assert_eq!(behind.api.count(Route::Run), 0);

    let front = behind.front(&BucketServer::vars(&bucket.endpoint, SECRET)).await;
    let answer = front.runsync(&input).await.by("runpod-a");
    let made = STANDARD.decode(text(&answer.images()[0], "data")).expect("base64");
    assert_png(&made, 64, 48);
    let run = behind.api.calls(Route::Run)[0].json();
    let address = text(&run["input"]["images"][0], "image");
    assert!(
        address.starts_with(&bucket.endpoint) && address.contains("X-Amz-Signature"),
        "{address:.300}"
    );
    until("what was put there for the job is gone", async || bucket.objects() == 0).await;
    behind.settled();
}

#[tokio::test]
async fn a_provider_that_speaks_openais_api_makes_the_picture() {
    let provider = Worker::beside_shared(&[("API_KEY", IMAGES_KEY)]).await;
    let url = format!("{}/v1", provider.url);
    let engine = images("provider", &url, "edit_model = \"Qwen/Qwen-Image-Edit-2511\"");
    // What it is not told it has itself, so that both ask for the same.
    let engine = engine.replace(SENDS, "sends = [\"seed\"]");
    let front = Front::start(&engine, &[]).await;
    let input = json!({"prompt": "a harbour", "template": "qwen-image", "width": 320, "height": 256, "seed": 8_805});
    let answer = front.runsync(&input).await.by("provider");
    let made = front.picture(&answer).await;
    assert_png(&made, 320, 256);
    // The same as by the provider's own API.
    let body = json!({"model": "Qwen/Qwen-Image", "prompt": "a harbour", "size": "320x256", "seed": 8_805,
        "response_format": "b64_json"});
    let request = http().post(format!("{url}/images/generations")).json(&body);
    let own = request.bearer_auth(IMAGES_KEY).send().await.expect("an answer");
    let own: Value = own.json().await.expect("JSON");
    let own = STANDARD.decode(text(&own["data"][0], "b64_json")).expect("base64");
    let pixels = |content: &[u8]| image::load_from_memory(content).expect("a picture").to_rgb8();
    assert_eq!(pixels(&made), pixels(&own));

    let source = encoded(&picture([250, 0, 0]), image::ImageFormat::Png);
    let image = json!({"name": "in.png", "image": STANDARD.encode(source)});
    let input = json!({"prompt": "make it winter", "template": "qwen-image-edit-2511-lightning-4", "images": [image]});
    let answer = front.runsync(&input).await.by("provider");
    let edited = front.picture(&answer).await;
    assert!(image::load_from_memory(&edited).is_ok(), "no picture");
}
