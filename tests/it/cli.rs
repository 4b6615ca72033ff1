//! The binary itself, as a person or a container starts it.

use std::process::Output;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::binary::{Served, alive, binary, said_after, shown_at_a_terminal};
use crate::support::{PATIENCE, fresh_data, http, installed, json_at, shared, slow, text, until};

/// The answer and the log of a run that succeeds.
async fn answer_of(run: impl Future<Output = std::io::Result<Output>>) -> (Value, String) {
    let done = tokio::time::timeout(PATIENCE, run).await;
    let done = done.expect("in time").expect("the binary runs");
    let log = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{log}");
    let answer = serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {log}"));
    (answer, log)
}

#[tokio::test]
async fn the_readmes_first_command_writes_the_picture() {
    // The installation is there when the shared worker is ready.
    drop(shared().await);
    let (data, vars) = fresh_data();
    let out = data.path().join("out");
    let input = concat!(env!("CARGO_MANIFEST_DIR"), "/test_input.json");
    let run = binary(&vars).args(["run", input, "--out"]).arg(&out).output();
    let (answer, log) = answer_of(run).await;
    let name = text(&answer["output"]["images"][0], "filename");
    let size = imagesize::size(out.join(name)).expect("a picture");
    assert_eq!((size.width, size.height), (1328, 1328));
    assert!(
        log.contains("a small demo model"),
        "demo weights are said loudly: {log}"
    );
}

#[tokio::test]
async fn at_a_terminal_a_job_shows_one_bar_and_its_end() {
    let worker = shared().await;
    let (data, mut vars) = fresh_data();
    vars.insert("COMFYUI_URL".to_owned(), worker.comfy_url().await);
    let (input, out) = (data.path().join("job.json"), data.path().join("out"));
    let job = json!({"input": {"workflow": slow(3, 100, 9_100)}});
    std::fs::write(&input, job.to_string()).expect("a file");
    let command = format!("run {} --out {}", input.display(), out.display());
    let shown = shown_at_a_terminal(&command, &vars).await;
    assert!(shown.contains(" % ") && !shown.contains("INFO"), "{shown}");
    let last = shown.lines().last().expect("lines");
    assert!(last.contains("wrote ") && last.contains(".png"), "{shown}");
}

#[tokio::test]
async fn at_a_terminal_the_log_is_shown_where_it_is_asked_for() {
    let (_data, mut vars) = fresh_data();
    vars.insert("COMFYUI_URL".to_owned(), "http://127.0.0.1:9".to_owned());
    let shown = shown_at_a_terminal("setup", &vars).await;
    assert!(shown.starts_with("nothing to set up: "), "{shown}");
    let shown = shown_at_a_terminal("setup --verbose", &vars).await;
    assert!(
        shown.contains("INFO") && shown.contains("nothing to set up: "),
        "{shown}"
    );
    vars.insert("LOG_LEVEL".to_owned(), "info".to_owned());
    let shown = shown_at_a_terminal("setup", &vars).await;
    assert!(shown.contains("INFO"), "{shown}");
}

#[tokio::test]
async fn a_request_that_is_wrong_is_refused_before_anything_starts() {
    let (data, vars) = fresh_data();
    let file = data.path().join("bad.json");
    std::fs::write(&file, "{\"input\": {\"prompt\": \"\"}}").expect("a file");
    let done = binary(&vars)
        .arg("run")
        .arg(&file)
        .output()
        .await
        .expect("the binary runs");
    let log = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1));
    assert!(
        log.contains("prompt: is empty") && !log.contains("ComfyUI is starting"),
        "{log}"
    );
}

#[tokio::test]
async fn test_input_runs_one_job_as_a_handler_of_runpods_sdk_does() {
    drop(shared().await);
    let (data, vars) = fresh_data();
    let input = json!({"input": {"workflow": slow(1, 1, 9_000)}}).to_string();
    let run = binary(&vars)
        .args(["--test_input", &input])
        .current_dir(data.path())
        .output();
    let (answer, log) = answer_of(run).await;
    let image = &answer["output"]["images"][0];
    let file = data
        .path()
        .join("out")
        .join(text(image, "subfolder"))
        .join(text(image, "filename"));
    assert!(file.is_file(), "{}: {log}", file.display());
}

#[tokio::test]
async fn a_test_input_that_is_wrong_is_told_before_anything_starts() {
    let (_data, vars) = fresh_data();
    for (input, code, said) in [
        (
            "{'input': {}}",
            2,
            "--test_input is no JSON (key must be a string at line 1 column 2)",
        ),
        (
            "{\"input\": {\"prompt\": \"\"}}",
            1,
            "--test_input: Invalid request: prompt: is empty",
        ),
    ] {
        let done = binary(&vars).args(["--test_input", input]).output().await;
        let done = done.expect("the binary runs");
        let log = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{log}");
        assert!(log.contains(said) && !log.contains("ComfyUI is starting"), "{log}");
    }
}

#[tokio::test]
async fn the_flags_of_runpods_sdk_serve_the_api() {
    let data = tempfile::tempdir().expect("a folder");
    let vars = [
        ("COMFYUI_URL", "http://127.0.0.1:9"),
        ("DATA_DIR", data.path().to_str().expect("UTF-8")),
        // The flags say otherwise.
        ("HOST", "192.0.2.1"),
        ("PORT", "1"),
        ("LOG_LEVEL", "error"),
        ("RUNPOD_WEBHOOK_GET_JOB", "http://127.0.0.1:9/job-take/$ID"),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let mut child = binary(&vars)
        .args(["--rp_serve_api", "--rp_api_host", "localhost", "--rp_api_port=0"])
        .args(["--rp_log_level", "INFO", "--rp_debugger", "--rp_api_concurrency", "2"])
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut log = String::new();
    let url = said_after("listening on ", &mut lines, &mut log).await;
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    for flag in ["--rp_debugger", "--rp_api_concurrency"] {
        assert!(log.contains(&format!("{flag} has no effect")), "{log}");
    }
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.get(format!("{url}/ping")).send().await.expect("an answer");
    assert_eq!(answer.status(), 204);
}

#[tokio::test]
async fn check_prints_the_configuration_with_secrets_starred() {
    let (_data, mut vars) = fresh_data();
    vars.insert("COMFY_ORG_API_KEY".into(), "comfyui-4711".into());
    let done = binary(&vars).arg("check").output().await.expect("the binary runs");
    let shown = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success());
    assert!(shown.contains("***") && !shown.contains("4711"), "{shown}");
    assert!(
        shown.contains("DEMO_WEIGHTS") && shown.contains("(environment)"),
        "{shown}"
    );
}

#[tokio::test]
async fn mistakes_in_the_environment_are_told_all_at_once() {
    let (_data, mut vars) = fresh_data();
    vars.insert("PORT".into(), "many".into());
    vars.insert("JOB_RETRIES".into(), "-1".into());
    let done = binary(&vars).arg("serve").output().await.expect("the binary runs");
    let log = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(64));
    assert!(
        log.contains("PORT: `many`") && log.contains("JOB_RETRIES: `-1`"),
        "{log}"
    );
}

#[tokio::test]
async fn on_runpod_no_gpu_is_a_failed_start() {
    let (_data, mut vars) = fresh_data();
    vars.insert("RUNPOD_POD_ID".into(), "pod".into());
    vars.insert("CUDA_VISIBLE_DEVICES".into(), "-1".into());
    let done = binary(&vars).arg("serve").output().await.expect("the binary runs");
    assert_eq!(done.status.code(), Some(1));
    let log = String::from_utf8_lossy(&done.stderr);
    assert!(log.contains("no NVIDIA GPU"), "{log}");
}

#[tokio::test]
async fn check_tells_that_a_worker_without_a_gpu_runs_on_the_cpu_only_when_asked_to() {
    let (data, mut vars) = fresh_data();
    std::fs::write(data.path().join("main.py"), "").expect("a file");
    vars.insert("COMFYUI_DIR".into(), data.path().display().to_string());
    vars.insert("RUNPOD_POD_ID".into(), "pod".into());
    vars.insert("CUDA_VISIBLE_DEVICES".into(), "-1".into());
    for (skip, code, said) in [
        ("false", 1, "ComfyUI cannot be started: there is no NVIDIA GPU"),
        ("true", 0, "It runs on the CPU\nModels: those in ComfyUI's own folders"),
    ] {
        vars.insert("RUNPOD_SKIP_GPU_CHECK".into(), skip.into());
        let done = binary(&vars).arg("check").output().await.expect("the binary runs");
        let shown = String::from_utf8_lossy(&done.stdout);
        assert_eq!(done.status.code(), Some(code), "{shown}");
        assert!(
            shown.contains("NVIDIA GPU: none found") && shown.contains(said),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn sigterm_finishes_the_job_in_hand_and_ends_comfyui() {
    drop(shared().await);
    let (_data, vars) = fresh_data();
    let mut served = Served::start(&vars).await;
    let comfy = served.comfy_pid().await;
    let url = served.url.clone();
    let body = serde_json::json!({"input": {"workflow": slow(100, 50, 1)}}).to_string();
    let client = http();
    let job = tokio::spawn(client.post(format!("{url}/runsync")).body(body).send());
    until("the job runs", async || {
        let health = json_at(&format!("{url}/health")).await;
        health["jobs"]["inProgress"] == 1
    })
    .await;
    served.terminate();
    let answer: Value = job
        .await
        .expect("no panic")
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    assert_eq!(answer["status"], "COMPLETED", "{answer}");
    assert_eq!(served.exit_code().await, Some(0));
    assert!(!alive(comfy), "ComfyUI outlives the worker");
}

#[tokio::test]
async fn a_killed_worker_leaves_no_comfyui_behind() {
    drop(shared().await);
    let (_data, vars) = fresh_data();
    let served = Served::start(&vars).await;
    let comfy = served.comfy_pid().await;
    assert!(alive(comfy));
    served.kill().await;
    until("ComfyUI is gone too", async || !alive(comfy)).await;
}

#[tokio::test]
async fn setup_tries_templates_on_a_version_and_leaves_the_working_one_alone() {
    installed().await;
    let (data, mut vars) = fresh_data();
    let names = ["qwen-image-lightning-4", "qwen-image-edit"];
    let arguments = [
        "setup",
        "--check",
        "pinned",
        "--json",
        "--template",
        names[0],
        "--template",
        names[1],
    ];
    let (report, log) = answer_of(binary(&vars).args(arguments).output()).await;
    assert_eq!(report["version"], "0.30.0", "{log}");
    assert_eq!(report["templates"].as_array().map(Vec::len), Some(names.len()));
    for (row, name) in report["templates"].as_array().expect("rows").iter().zip(names) {
        assert_eq!(
            (&row["template"], &row["state"]),
            (&json!(name), &json!("passed")),
            "{report:#}"
        );
    }
    let left = std::fs::read_dir(data.path().join("check")).expect("its folder");
    assert_eq!(left.count(), 0, "nothing is left of it");
    assert!(!data.path().join("base/output").exists() && !data.path().join("demo").exists());

    // A template that does not exist is told before anything is started.
    vars.insert("LOG_LEVEL".to_owned(), "error".to_owned());
    let refused = binary(&vars)
        .args(["setup", "--check", "--template", "qwen-imag"])
        .output()
        .await;
    let refused = refused.expect("the worker runs");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("qwen-image"));
}
