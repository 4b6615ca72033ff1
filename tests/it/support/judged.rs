//! Workers before the clients of Comfy API v2, and what holds for each of these.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};
use tokio::sync::RwLockReadGuard;

use super::comfy_v2::faults;
use super::comfyui::empty;
use super::recorder::{Exchange, Recorder};
use super::{Worker, graph, shared, slow, text};

const KEY: &str = "a-key-of-the-tests";
/// The key for nodes that ask Comfy's services: nobody is told.
const ORG_KEY: &str = "comfyui-the-key-of-comfy-org";
/// The key of the request that waits for a place in the queue.
const WAITING: &str = "5f0c4c07-8f43-4d2b-9be8-6c1ad5ab2f10";

/// Workers on one ComfyUI, and what is said to each: one on its two ports, one that asks for a key, and one that takes one job at
/// a time.
pub(crate) struct Judged {
    pub(crate) base: Recorder,
    edit: Recorder,
    locked: Recorder,
    full: Recorder,
    pub(crate) plan: Value,
    _workers: Vec<Worker>,
    _shared: Option<RwLockReadGuard<'static, Worker>>,
}

/// A picture of one colour.
fn picture(color: [u8; 3]) -> Vec<u8> {
    let mut content = Cursor::new(Vec::new());
    let image = RgbImage::from_pixel(32, 24, Rgb(color));
    image.write_to(&mut content, ImageFormat::Png).expect("a PNG");
    content.into_inner()
}

impl Judged {
    /// Before a ComfyUI that is elsewhere. The numbers are a test's own.
    pub(crate) async fn start(seed: u32) -> Self {
        let worker = Worker::beside_shared(&[]).await;
        let (comfy, base, edit) = (worker.comfy_url().await, worker.url.clone(), worker.edit_url.clone());
        Self::of(seed, (&base, &edit), &comfy, vec![worker], None).await
    }

    /// Before one whose folders the worker knows, and which others use at the same time.
    pub(crate) async fn start_on_shared(seed: u32) -> Self {
        let worker = shared().await;
        let (comfy, base, edit) = (worker.comfy_url().await, worker.url.clone(), worker.edit_url.clone());
        Self::of(seed, (&base, &edit), &comfy, Vec::new(), Some(worker)).await
    }

    async fn of(
        seed: u32,
        (base, edit): (&str, &str),
        comfy: &str,
        mut workers: Vec<Worker>,
        shared: Option<RwLockReadGuard<'static, Worker>>,
    ) -> Self {
        let locked = Worker::attached(comfy, &[("API_KEY", KEY)]).await;
        let full = Worker::attached(comfy, &[("QUEUE_LIMIT", "1")]).await;
        let (base, edit) = (Recorder::to(base).await, Recorder::to(edit).await);
        let (at_locked, at_full) = (Recorder::to(&locked.url).await, Recorder::to(&full.url).await);
        workers.extend([locked, full]);
        // Until then, graphs are taken that nobody can judge.
        for worker in &workers {
            worker.ready().await;
        }
        let [shade, ..] = seed.to_le_bytes();
        let pictures: Vec<_> = (0..4).map(|number| picture([shade, 90, number * 60])).collect();
        let pictures: Vec<_> = pictures.iter().map(|picture| STANDARD.encode(picture)).collect();
        let quick: Vec<_> = (0..13).map(|number| empty(seed + number, "v2/quick")).collect();
        let mut fails = graph("Raise", json!({"message": "the lamp is out", "image": ["3", 0]}));
        fails["3"] = slow(3, 50, seed)["1"].clone();
        let mut bad_value = empty(seed, "v2/bad");
        bad_value["1"]["inputs"]["width"] = json!("wide");
        let plan = json!({
            "base": base.url, "edit": edit.url, "locked": at_locked.url, "full": at_full.url,
            "key": KEY, "org_key": ORG_KEY, "waiting_key": WAITING,
            "picture": pictures[0], "pictures": pictures,
            "load": {
                "1": {"class_type": "LoadImage", "inputs": {"image": "none"}},
                "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "v2/loaded"}},
            },
            "quick": quick,
            "steps": slow(12, 150, seed + 20),
            "slow": slow(1_000, 50, seed + 21),
            "fails": fails,
            "text": {
                "1": {"class_type": "PrimitiveString", "inputs": {"value": "Grüße vom 狐"}},
                "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
            },
            "wrong": graph("NoSuchNode", json!({})),
            "bad_value": bad_value,
        });
        Self {
            base,
            edit,
            locked: at_locked,
            full: at_full,
            plan,
            _workers: workers,
            _shared: shared,
        }
    }

    /// What holds for each client.
    pub(crate) async fn assert_all(&self, seen: &Value) {
        let recorders = [&self.base, &self.edit, &self.locked, &self.full];
        let mut wrong = faults(&recorders).await;
        for (name, trace) in seen["broken"].as_object().expect("parts") {
            wrong.push(format!("{name} broke: {}", trace.as_str().unwrap_or_default()));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        for exchange in recorders.iter().flat_map(|recorder| recorder.exchanges()) {
            assert!(exchange.status < 500, "{exchange:?}");
            let answer = String::from_utf8_lossy(&exchange.answer);
            assert!(!answer.contains(ORG_KEY), "{answer}");
            // Who follows a link comes to where they asked.
            assert!(!answer.contains("0.0.0.0") && !answer.contains("localhost"), "{answer}");
        }
        self.assert_uploads();
        self.assert_waited(&seen["queue_full"]);
        for (essentials, recorder) in [
            (&seen["edit_port"], &self.edit),
            (&seen["locked"]["right"], &self.locked),
        ] {
            self.assert_output(&essentials["output"], 0);
            assert_ended(&essentials["events"], "succeeded");
            assert_eq!(essentials["status"], "succeeded");
            let (url, base) = (text(essentials, "url"), &recorder.url);
            assert!(
                url.starts_with(&format!("{base}/api/v2/assets/")) && url.ends_with("/content"),
                "{url}"
            );
        }
        for name in ["none", "wrong"] {
            for told in seen["locked"][name].as_array().expect("a list") {
                // The answer to a HEAD has no words.
                let seen = (text(told, "class"), text(told, "code"), &told["status"]);
                assert_eq!(seen, ("Unauthorized", "unauthorized", &json!(401)), "{told:#}");
            }
        }
    }

    /// The first upload of a picture brings it; the second finds it there.
    fn assert_uploads(&self) {
        let exchanges = self.base.exchanges();
        let steps = exchanges.iter().filter(|exchange| exchange.path().contains("/assets"));
        let steps: Vec<_> = steps.take(4).collect();
        let step = |exchange: &&Exchange| {
            let end = exchange.path().rsplit('/').next().unwrap_or_default();
            let end = if exchange.method == "HEAD" { "by-hash" } else { end };
            (exchange.method.clone(), end.to_owned(), exchange.status)
        };
        let seen: Vec<_> = steps.iter().map(step).collect();
        let named = |method: &str, end: &str, status| (method.to_owned(), end.to_owned(), status);
        assert_eq!(seen[0], named("HEAD", "by-hash", 404));
        assert_eq!(seen[1], named("POST", "assets", 201));
        assert_eq!(seen[2], named("HEAD", "by-hash", 200));
        assert_eq!((seen[3].0.as_str(), seen[3].1.as_str()), ("POST", "from-hash"));
        let [first, second] = [1, 3].map(|at| steps[at].json());
        assert_eq!(
            (&first["created_new"], &second["created_new"]),
            (&json!(true), &json!(false))
        );
        assert_eq!(
            (&first["file_path"], &second["file_path"]),
            (&json!("ein Füchslein.png"), &json!("again.png"))
        );
        assert_eq!(
            (&first["content_type"], &first["hash"]),
            (&json!("image/png"), &second["hash"])
        );
    }

    /// Who finds the queue full comes again with the same request, and is taken.
    fn assert_waited(&self, seen: &Value) {
        let told = &seen["told"];
        assert_eq!(
            (text(told, "code"), &told["status"]),
            ("queue_full", &json!(429)),
            "{told:#}"
        );
        assert!(told["retry_after"].as_u64() > Some(0), "{told:#}");
        assert_eq!(
            (&seen["waited"], &seen["first"]),
            (&json!("succeeded"), &json!("succeeded"))
        );
        let exchanges = self.full.exchanges();
        let tries = exchanges
            .iter()
            .filter(|exchange| exchange.asked.get("idempotency-key").map(String::as_str) == Some(WAITING));
        let tries: Vec<u16> = tries.map(|exchange| exchange.status).collect();
        assert!(tries.len() > 1, "{tries:?}");
        assert_eq!((tries[0], tries.last()), (429, Some(&201)), "{tries:?}");
    }

    /// An output that shows one of the pictures.
    #[track_caller]
    pub(crate) fn assert_output(&self, output: &Value, number: usize) {
        let kind = (text(output, "type"), text(output, "content_type"), text(output, "node"));
        assert_eq!(kind, ("image", "image/png", "2"), "{output:#}");
        for name in ["size_is_right", "ways_agree", "rest_is_right"] {
            assert_eq!(output[name], true, "{name}");
        }
        assert_eq!(text(output, "start"), "89504e470d0a1a0a");
        assert!(text(output, "name").contains(".png") && output["job"].is_string());
        let pixels = |content: &Value| {
            let content = STANDARD.decode(content.as_str().expect("base64")).expect("base64");
            image::load_from_memory(&content).expect("a picture").to_rgb8()
        };
        assert!(
            pixels(&output["content"]) == pixels(&self.plan["pictures"][number]),
            "another picture"
        );
    }
}

#[track_caller]
pub(crate) fn assert_refused(told: &Value, class: &str, code: &str, status: u16) {
    let seen = (text(told, "class"), text(told, "code"), &told["status"]);
    assert_eq!(seen, (class, code, &json!(status)), "{told:#}");
    let message = text(told, "message");
    // The clients show no more than that.
    assert!(message.len() > 10 && message.chars().count() <= 256, "{message}");
}

/// A stream that goes on to the end of its job.
#[track_caller]
pub(crate) fn assert_ended(stream: &Value, status: &str) {
    assert_eq!(stream["last"], json!(["StatusChange", status]), "{stream:#}");
}

/// A stream that was there from the start to the end of a job that shows previews.
#[track_caller]
pub(crate) fn assert_stream(stream: &Value, outputs: &Value) {
    assert_ended(stream, "succeeded");
    assert_eq!(&stream["outputs"], outputs, "{stream:#}");
    assert_eq!(stream["previews"], json!(["image/jpeg ffd8"]), "{stream:#}");
    let progress = stream["progress"].as_array().expect("numbers").iter();
    let progress: Vec<f64> = progress.map(|value| value.as_f64().expect("a number")).collect();
    assert!(progress.is_sorted() && progress.len() > 2, "{progress:?}");
    assert!(progress.last() >= Some(&1.0), "{progress:?}");
    assert!(
        progress.iter().any(|value| (0.01..0.99).contains(value)),
        "{progress:?}"
    );
    let nodes = stream["nodes"].as_array().expect("counts");
    assert_eq!(nodes.last(), Some(&json!([2, 2])), "{nodes:?}");
    let steps = stream["steps"].as_array().expect("counts");
    assert!(steps.iter().any(|step| step[1] == 12), "{steps:?}");
    let kinds: Vec<&str> = stream["kinds"]
        .as_array()
        .expect("kinds")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let output = kinds.iter().position(|kind| *kind == "OutputReady");
    assert!(
        output < kinds.iter().rposition(|kind| *kind == "StatusChange"),
        "{kinds:?}"
    );
}

#[track_caller]
pub(crate) fn assert_events(seen: &Value) {
    assert_eq!(seen["status"], "succeeded");
    assert_eq!(seen["outputs"].as_array().map(Vec::len), Some(1));
    for stream in seen["streams"].as_array().expect("streams") {
        assert_stream(stream, &seen["outputs"]);
    }
    assert_ended(&seen["late"], "succeeded");
}

#[track_caller]
pub(crate) fn assert_cancels(seen: &Value) {
    assert_eq!(seen["before"], json!(["running", "queued"]));
    assert_eq!(seen["asked"][0], "canceled");
    let asked = seen["asked"][1].as_str().unwrap_or_default();
    assert!(["canceling", "canceled"].contains(&asked), "{seen:#}");
    for ended in seen["ended"].as_array().expect("both") {
        assert_eq!(
            (text(ended, "class"), text(ended, "status")),
            ("JobFailed", "canceled"),
            "{ended:#}"
        );
    }
    assert_eq!(seen["again"], json!(["canceled", "canceled"]));
    for last in seen["events"].as_array().expect("both") {
        assert_eq!(*last, json!(["StatusChange", "canceled"]));
    }
}

/// A node's own fault, as the client tells it.
#[track_caller]
pub(crate) fn assert_failed(told: &Value) {
    assert_eq!(
        (text(told, "class"), text(told, "status")),
        ("JobFailed", "failed"),
        "{told:#}"
    );
    let error = &told["error"];
    assert_eq!(
        (text(error, "node_id"), text(error, "class_type")),
        ("1", "Raise"),
        "{told:#}"
    );
    assert!(text(error, "message").contains("the lamp is out"), "{told:#}");
}

/// Of those that come at once with one key, one is taken.
#[track_caller]
pub(crate) fn assert_race(race: &Value) {
    let race = race.as_array().expect("a list");
    let (done, refused): (Vec<_>, Vec<_>) = race.iter().partition(|told| told["done"].is_string());
    assert_eq!((done.len(), refused.len()), (1, 4), "{race:#?}");
    for told in refused {
        assert_refused(told, "IdempotencyKeyReuse", "idempotency_key_reuse", 422);
    }
}

#[track_caller]
pub(crate) fn assert_deleted(gone: &Value) {
    for told in gone.as_array().expect("a list") {
        assert_refused(told, "NotFound", "not_found", 404);
    }
}

/// What is wrong, by what the clients call it.
#[track_caller]
pub(crate) fn assert_errors(errors: &Value) {
    for (name, class, code, status) in [
        ("class", "InvalidWorkflow", "invalid_workflow", 422),
        ("input", "InvalidWorkflow", "invalid_workflow", 422),
        ("value", "InvalidWorkflow", "invalid_workflow", 422),
        ("no_output", "InvalidWorkflow", "invalid_workflow", 422),
        ("empty", "InvalidWorkflow", "invalid_workflow", 422),
        ("ui", "WorkflowFormatUi", "workflow_format_ui", 422),
        ("ui_here", "WorkflowFormatUi", "workflow_format_ui", 422),
        ("ui_sent", "WorkflowFormatUi", "workflow_format_ui", 422),
        ("asset", "MissingAsset", "missing_asset", 422),
        ("no_id", "MissingAsset", "missing_asset", 422),
        ("no_info", "MissingAsset", "missing_asset", 422),
        ("no_job", "NotFound", "not_found", 404),
        ("no_asset", "NotFound", "not_found", 404),
        ("no_blob", "BlobNotFound", "blob_not_found", 404),
        ("hash", "HashMismatch", "hash_mismatch", 409),
    ] {
        if !errors[name].is_null() {
            assert_refused(&errors[name], class, code, status);
        }
    }
}

#[track_caller]
pub(crate) fn assert_lists(lists: &Value) {
    for name in [
        "each_once",
        "all_there",
        "newest_first",
        "times",
        "labels",
        "labels_got",
        "labels_listed",
    ] {
        assert_eq!(lists[name], true, "{name}: {lists:#}");
    }
    assert!(lists["count"].as_u64() > Some(9), "{lists:#}");
    assert_eq!(lists["by"], json!([[1, 0], [0], [2, 0], [2], []]), "newest first");
    let refused = &lists["refused"];
    for name in ["number", "many", "control"] {
        assert_refused(&refused[name], "ComfyError", "metadata_invalid", 422);
    }
    assert_refused(&refused["filters"], "ComfyError", "invalid_metadata_filter", 400);
    assert_refused(&refused["limit"], "ComfyError", "invalid_request", 400);
    let cursor = &refused["cursor"];
    assert_eq!(
        (text(cursor, "code"), &cursor["status"]),
        ("invalid_cursor", &json!(400)),
        "{cursor:#}"
    );
}
