//! The binary itself, as a person or a container starts it.

use std::collections::BTreeMap;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::{PATIENCE, fresh_data, shared, slow, text, until};

fn binary(vars: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qwen-image-worker"));
    for name in [
        "COMFYUI_DIR",
        "COMFYUI_URL",
        "COMFYUI_PYTHON",
        "RUNPOD_POD_ID",
        "LOG_LEVEL",
    ] {
        command.env_remove(name);
    }
    command
        .envs(vars)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Starts `serve` and waits until its ComfyUI is ready; gives its address and ComfyUI's process id.
async fn serve(vars: &BTreeMap<String, String>) -> (Child, String, i32) {
    let mut child = binary(vars).arg("serve").spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut url = None;
    while url.is_none() {
        let line = lines
            .next_line()
            .await
            .expect("UTF-8")
            .expect("it says where it listens");
        url = line
            .split_once("listening on ")
            .map(|(_, rest)| rest.split(';').next().unwrap_or_default().to_owned());
    }
    // Read on, or the pipe fills up.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let url = url.unwrap_or_default();
    let mut pid = 0;
    until("ComfyUI is ready", async || {
        let Ok(answer) = reqwest::get(format!("{url}/health")).await else {
            return false;
        };
        let health: Value = answer.json().await.expect("JSON");
        pid = health["comfyui"]["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok())
            .unwrap_or_default();
        pid > 0
    })
    .await;
    (child, url, pid)
}

fn alive(pid: i32) -> bool {
    // A process that nobody has waited for yet is dead all the same.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn the_readmes_first_command_writes_the_picture() {
    // The installation is there when the shared worker is ready.
    drop(shared().await);
    let (data, vars) = fresh_data();
    let out = data.path().join("out");
    let input = concat!(env!("CARGO_MANIFEST_DIR"), "/test_input.json");
    let run = binary(&vars).args(["run", input, "--out"]).arg(&out).output();
    let done = tokio::time::timeout(PATIENCE, run)
        .await
        .expect("in time")
        .expect("the binary runs");
    let log = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{log}");
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {log}"));
    let name = text(&answer["output"]["images"][0], "filename");
    let size = imagesize::size(out.join(name)).expect("a picture");
    assert_eq!((size.width, size.height), (1328, 1328));
    assert!(log.contains("noise"), "demo weights are said loudly: {log}");
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
async fn sigterm_finishes_the_job_in_hand_and_ends_comfyui() {
    drop(shared().await);
    let (_data, vars) = fresh_data();
    let (mut child, url, comfy) = serve(&vars).await;
    let body = serde_json::json!({"input": {"workflow": slow(30, 50, 1)}}).to_string();
    let client = reqwest::Client::new();
    let job = tokio::spawn(client.post(format!("{url}/runsync")).body(body).send());
    until("the job runs", async || {
        let health: Value = reqwest::get(format!("{url}/health"))
            .await
            .expect("an answer")
            .json()
            .await
            .expect("JSON");
        health["jobs"]["inProgress"] == 1
    })
    .await;
    kill(
        Pid::from_raw(child.id().expect("it runs").cast_signed()),
        Signal::SIGTERM,
    )
    .expect("it runs");
    let answer: Value = job
        .await
        .expect("no panic")
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    assert_eq!(answer["status"], "COMPLETED", "{answer}");
    let status = tokio::time::timeout(PATIENCE, child.wait())
        .await
        .expect("in time")
        .expect("it ends");
    assert!(status.success(), "{status}");
    assert!(!alive(comfy), "ComfyUI outlives the worker");
}

#[tokio::test]
async fn a_killed_worker_leaves_no_comfyui_behind() {
    drop(shared().await);
    let (_data, vars) = fresh_data();
    let (mut child, _, comfy) = serve(&vars).await;
    assert!(alive(comfy));
    child.kill().await.expect("it runs");
    until("ComfyUI is gone too", async || !alive(comfy)).await;
}
