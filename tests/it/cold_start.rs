//! What happens beside a start: models read into memory, a warm-up, copies on the local disk, and what is told of it.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::binary::Served;
use crate::support::{fresh_data, graph, http, json_at, shared, until};

/// How much of a file is in the page cache, in bytes.
fn in_memory(file: &Path) -> u64 {
    let told = std::process::Command::new("fincore")
        .args(["--bytes", "--noheadings", "--output", "RES"])
        .arg(file)
        .output()
        .expect("util-linux");
    String::from_utf8_lossy(&told.stdout).trim().parse().expect("a number")
}

/// Has the kernel forget what it has of a file.
fn forget(file: &Path) {
    let file = std::fs::File::open(file).expect("a file");
    file.sync_all().expect("a disk");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a local file system");
}

/// A model of 64 MB on a volume, which `MODELS` names.
fn model_on(volume: &Path) -> std::path::PathBuf {
    let file = volume.join("models/loras/cold.safetensors");
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    std::fs::write(&file, vec![1; 64 << 20]).expect("a file");
    file
}

const NAMED: &str = "loras/cold.safetensors=https://models.example.com/cold.safetensors";

#[tokio::test]
async fn models_are_read_into_memory_and_copied_and_the_copy_is_used_next_time() {
    // Not under /tmp, which may be memory itself.
    let volume = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let file = model_on(volume.path());
    forget(&file);
    // Some file systems keep everything in memory, and tell nothing of who reads.
    let tells = in_memory(&file) == 0;
    let (data, mut vars) = fresh_data();
    vars.extend([
        ("DEMO_WEIGHTS".to_owned(), "false".to_owned()),
        ("NETWORK_VOLUMES".to_owned(), volume.path().display().to_string()),
        ("MODELS".to_owned(), NAMED.to_owned()),
        ("MODEL_LOCAL_CACHE_GB".to_owned(), "1".to_owned()),
        ("PERFORMANCE".to_owned(), "fast".to_owned()),
        // Also on a machine with a card.
        ("COMFYUI_ARGS".to_owned(), "--disable-api-nodes --cpu".to_owned()),
    ]);
    let worker = Served::start(&vars).await;
    until("it is in memory", async || in_memory(&file) == 64 << 20).await;
    worker.comfy_pid().await;
    let copy = data.path().join("local-models/loras/cold.safetensors");
    assert!(!copy.exists(), "no job has used it");
    let workflow = json!({"1": {"class_type": "ShowText", "inputs": {"text": "cold.safetensors"}}});
    let job = worker.accept(json!({"input": {"workflow": workflow}})).await;
    assert_eq!(worker.end(&job).await.body["status"], "COMPLETED");
    until("it is copied", async || copy.is_file()).await;
    let start = worker.ask("/health").await.body["start"].clone();
    for phase in [
        "process_s",
        "install_check_s",
        "comfyui_s",
        "models_present_s",
        "models_cached_s",
    ] {
        assert!(start[phase].is_number(), "{phase}: {start}");
    }
    // Nothing runs on a CPU that would differ.
    assert_eq!(worker.ask("/health").await.body.get("warnings"), None);
    worker.kill().await;

    // Only the copy can be read now: the other one is as it was, and not in memory.
    forget(&file);
    forget(&copy);
    let again = Served::start(&vars).await;
    until("the copy is in memory", async || in_memory(&copy) == 64 << 20).await;
    assert!(!tells || in_memory(&file) == 0);
    again.comfy_pid().await;
    let listed: Value = json_at(&format!("{}/models/loras", again.url)).await;
    assert_eq!(listed, json!(["cold.safetensors"]));
    again.kill().await;
}

#[tokio::test]
async fn a_warm_up_makes_the_first_picture_and_leaves_no_job() {
    let (_data, mut vars) = fresh_data();
    vars.insert("WARMUP".to_owned(), "qwen-image-lightning-4".to_owned());
    let worker = Served::start(&vars).await;
    until("it is ready", async || {
        let answer = http()
            .get(format!("{}/ping", worker.url))
            .send()
            .await
            .expect("an answer");
        answer.status() == 200
    })
    .await;
    let start = worker.ask("/health").await.body["start"].clone();
    assert!(
        start["first_picture_s"].as_f64() >= start["first_step_s"].as_f64(),
        "{start}"
    );
    assert!(start["first_step_s"].is_number(), "{start}");
    until("its job is gone", async || {
        let jobs = worker.ask("/requests").await.body;
        jobs["requests"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
    worker.kill().await;
}

/// Waits until the warm-up's job is there.
async fn has_jobs(worker: &Served) {
    until("it warms up", async || worker.unfinished().await > 0).await;
}

#[tokio::test]
async fn a_warm_up_ends_with_the_worker_however_that_ends() {
    let (_data, mut vars) = fresh_data();
    let warm_up = ("WARMUP".to_owned(), "qwen-image".to_owned());
    vars.extend([warm_up.clone(), ("SHUTDOWN_GRACE_S".to_owned(), "600".to_owned())]);
    let mut worker = Served::start(&vars).await;
    has_jobs(&worker).await;
    worker.terminate();
    assert_eq!(worker.exit_code().await, Some(0));

    let worker = Served::start(&vars).await;
    // Nothing is there until the next one begins.
    assert_eq!(worker.ask("/requests").await.body["requests"], json!([]));
    has_jobs(&worker).await;
    worker.kill().await;

    vars.insert(warm_up.0, "off".to_owned());
    let worker = Served::start(&vars).await;
    assert_eq!(worker.ask("/requests").await.body["requests"], json!([]));
    let jobs = worker.ask("/health").await.body["jobs"].clone();
    assert_eq!((&jobs["inQueue"], &jobs["failed"]), (&json!(0), &json!(0)), "{jobs}");
    worker.kill().await;
}

#[tokio::test]
async fn the_phases_of_a_start_are_told() {
    let worker = shared().await;
    let _ = worker
        .run(json!({"workflow": graph("Noise", json!({"side": 64, "count": 1, "seed": 8101}))}))
        .await;
    let start = worker.ask("/health").await.body["start"].clone();
    let comfyui = start["comfyui_s"].as_f64().expect("a number");
    assert!(
        start["install_check_s"].as_f64().expect("a number") <= comfyui,
        "{start}"
    );
}
