//! The worker on RunPod's platform: jobs are taken, results go back, and nothing is lost whatever the platform does.
//! The platform is a fake on a real socket; ComfyUI is the real one that the tests share.

mod fitness;
mod jobs;
mod life;
mod models;
mod refusals;
mod results;
mod sizes;
mod stops;
mod takes;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::RwLockReadGuard;

use crate::support::clients::python;
use crate::support::deployed::Deployed;
use crate::support::platform::{Call, KEY, POD, Platform, Route, State};
use crate::support::{Worker, http, shared, slow, text, until};

/// A platform, a folder for a worker's data, and the ComfyUI that the tests share.
struct Endpoint {
    platform: Platform,
    data: TempDir,
    comfy_url: String,
    /// Held, so that no other test ends ComfyUI meanwhile.
    shared: RwLockReadGuard<'static, Worker>,
}

impl Endpoint {
    async fn start() -> Self {
        let shared = shared().await;
        Self {
            platform: Platform::start().await,
            data: tempfile::tempdir().expect("a folder"),
            comfy_url: shared.comfy_url().await,
            shared,
        }
    }

    /// Starts a worker with further variables; after an earlier one has ended, it goes on where that one was.
    fn worker(&self, more: &[(&str, &str)]) -> Deployed {
        let mut vars = vec![("COMFYUI_URL", self.comfy_url.as_str())];
        vars.extend(more);
        Deployed::start(&self.platform, self.data.path(), &vars)
    }

    /// Whether ComfyUI runs or keeps waiting a graph with this seed.
    async fn comfyui_has(&self, seed: u32) -> bool {
        let queue = http()
            .get(format!("{}queue", self.comfy_url))
            .send()
            .await
            .expect("an answer");
        let queue: Value = queue.json().await.expect("JSON");
        let running = [&queue["queue_running"], &queue["queue_pending"]];
        let prompts = running.iter().filter_map(|list| list.as_array()).flatten();
        prompts
            .into_iter()
            .any(|prompt| prompt[2]["1"]["inputs"]["seed"] == seed)
    }

    /// Waits until ComfyUI has taken in a graph with this seed.
    async fn at_comfyui(&self, seed: u32) {
        until("ComfyUI has the graph", async || self.comfyui_has(seed).await).await;
    }

    /// Checks a result for one picture, and that its bytes are those of ComfyUI's file.
    #[track_caller]
    fn one_picture(&self, result: &Value) -> Vec<u8> {
        let images = result["output"]["images"].as_array();
        let Some([image]) = images.map(Vec::as_slice) else {
            panic!("not one picture: {result:#}");
        };
        assert_eq!(image["type"], "base64", "{result:#}");
        let bytes = STANDARD.decode(text(image, "data")).expect("base64");
        let path = self
            .shared
            .output()
            .join(text(image, "subfolder"))
            .join(text(image, "filename"));
        assert!(
            std::fs::read(&path).expect("ComfyUI's file") == bytes,
            "{}",
            path.display()
        );
        bytes
    }
}

/// The input of a job that is over in no time. Seeds differ between tests, so that nothing comes from ComfyUI's cache.
fn quick(seed: u32) -> Value {
    json!({"workflow": slow(1, 1, seed)})
}

/// The input of a job that takes as many tenths of a second, with progress.
fn lasting(tenths: u32, seed: u32) -> Value {
    json!({"workflow": slow(tenths * 4, 25, seed)})
}

/// The input of a job that ends only when it is stopped.
fn endless(seed: u32) -> Value {
    json!({"workflow": slow(100_000, 50, seed)})
}

/// The input of a job whose picture is noise, the worst for a PNG: three bytes and more for each pixel.
fn noise(side: usize, seed: u32) -> Value {
    json!({"workflow": {
        "1": {"class_type": "EmptyImage", "inputs": {"width": side, "height": side, "batch_size": 1, "color": 8_421_504}},
        "2": {"class_type": "ImageAddNoise", "inputs": {"image": ["1", 0], "seed": seed, "strength": 0.3}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "platform/noise"}},
    }})
}

/// Waits for a ping that names these jobs.
async fn pinged_with(platform: &Platform, ids: &str) {
    let found = |ping: &Call| (ping.head.query("job_id") == ids).then_some(());
    let what = format!("a ping that names {ids:?}");
    platform
        .until(&what, |state| state.calls(Route::Ping).find_map(found))
        .await;
}

/// Waits until the worker says, from now on, that it has no job.
async fn nothing_in_hand(platform: &Platform) {
    let before = platform.calls(Route::Ping).len();
    let idle = |state: &State| {
        let last = state.calls(Route::Ping).skip(before).last()?;
        last.head.query("job_id").is_empty().then_some(())
    };
    platform.until("a ping without jobs", idle).await;
}

/// The judge of the fake: RunPod's own package must find nothing wrong with it, nor it with the package.
#[tokio::test]
async fn runpods_own_worker_works_on_the_fake_platform() {
    let platform = Platform::start().await;
    platform.hold(Duration::from_secs(1));
    platform.queue("a", &json!({"say": "á", "steps": 2}));
    platform.queue("b", &json!({"raise": "the lamp is out"}));
    platform.queue("c", &json!({"wait": true}));
    let jobs = async {
        assert_eq!(platform.result("a").await, json!({"output": {"said": "á"}}));
        let error = platform.result("b").await["error"].as_str().expect("text").to_owned();
        assert!(error.contains("the lamp is out"), "{error}");
        pinged_with(&platform, "c").await;
        platform.cancel(&["c"]);
        platform.queue("d", &json!({"error": "no", "say": 1}));
        assert_eq!(platform.result("d").await, json!({"error": "no"}));
        platform.queue("e", &json!({"say": [], "refresh": true, "end": true}));
        let last = platform.result("e").await;
        assert_eq!(last, json!({"output": {"said": []}, "stopPod": true}));
    };
    let vars = json!(platform.vars());
    let worker = python("runpod==1.12.0", include_str!("../clients/runpod_worker.py"), &vars);
    let (ended, ()) = tokio::join!(worker, jobs);
    assert_eq!(ended, "ended");
    let progress: Vec<_> = platform
        .posts("a")
        .iter()
        .map(|call| call.json()["output"].clone())
        .collect();
    assert_eq!(progress, [json!("step 0"), json!("step 1"), json!({"said": "á"})]);
    assert!(platform.posts("c").is_empty());
    platform.settled();
}

/// What the other tests rest on: the fake notices a job that nobody got, and one that somebody got and dropped.
#[tokio::test]
async fn the_fake_platform_keeps_account_of_its_jobs() {
    let platform = Platform::start().await;
    let address = platform.vars()["RUNPOD_WEBHOOK_GET_JOB"].clone();
    let address = address.strip_prefix("http://").expect("an address");
    let (host, path) = address.split_once('/').expect("a path");
    let path = path.replace("$ID", POD);
    let ask = async || {
        let mut stream = TcpStream::connect(host).await.expect("it listens");
        let request = format!("GET /{path}&job_in_progress=0 HTTP/1.1\r\nAuthorization: {KEY}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        platform.is_asked_for_jobs().await;
        stream
    };
    let handed_out = async || platform.until("", |state| Some(state.ticket("job").handed_out)).await;
    // Half closed, as a worker does that goes away.
    let mut stream = ask().await;
    stream.shutdown().await.expect("open");
    platform.queue("job", &json!({}));
    assert_eq!(stream.read(&mut [0]).await.expect("an end"), 0);
    assert_eq!(handed_out().await, 0);
    // The next one gets it, and does nothing with it.
    let mut stream = TcpStream::connect(host).await.expect("it listens");
    let request = format!("GET /{path}&job_in_progress=0 HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    drop(stream);
    assert_eq!(handed_out().await, 1);
    let wrong = platform.wrong();
    assert!(wrong.iter().any(|what| what.contains("Authorization")), "{wrong:?}");
    assert!(
        wrong.iter().any(|what| what.contains("job was handed out and is lost")),
        "{wrong:?}"
    );
    assert_eq!(wrong.len(), 2, "{wrong:?}");
}
