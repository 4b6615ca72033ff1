//! A worker in a container with less memory than the machine has: ComfyUI knows, and a job that the kernel kills it for says so.

use reqwest::Method;
use serde_json::json;

use crate::support::binary::Served;
use crate::support::control_group::Group;
use crate::support::{fresh_data, graph, json_at, slow, text};

const GIB: u64 = 1 << 30;

/// The address of a ComfyUI process, which has its port among its arguments.
fn address(pid: i32) -> String {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("a process");
    let words: Vec<&str> = line.split('\0').collect();
    let port = words.iter().position(|word| *word == "--port").expect("a port") + 1;
    format!("http://127.0.0.1:{}", words[port])
}

#[tokio::test]
async fn comfyui_has_no_more_memory_than_the_container() {
    let group = Group::with_limit(6 * GIB);
    let (_data, vars) = fresh_data();
    let worker = Served::start_in(&group, &vars).await;
    let pid = worker.comfy_pid().await;
    let stats = json_at(&format!("{}/system_stats", address(pid))).await;
    assert_eq!(stats["system"]["ram_total"], json!(6 * GIB));
    let free = stats["system"]["ram_free"].as_u64().expect("a number");
    assert!(free > GIB && free < 6 * GIB, "{free}");
    assert_eq!(worker.ask("/health").await.body["memory"], json!({"limit": 6 * GIB}));
    // `check` sees the same.
    let mut check = tokio::process::Command::new("sh");
    let script = format!("{} && exec \"$0\" check", group.enter());
    check.args(["-c", &script, env!("CARGO_BIN_EXE_qwen-image-worker")]);
    let said = check.envs(&vars).output().await.expect("sh");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        said.contains("Memory: limit 6.0 GiB of this container (cgroup v"),
        "{said}"
    );
    worker.kill().await;
}

#[tokio::test]
async fn a_job_that_needs_more_than_the_container_has_says_so_and_is_not_run_again() {
    let group = Group::with_limit(3 * GIB);
    let (_data, mut vars) = fresh_data();
    vars.insert("JOB_RETRIES".to_owned(), "3".to_owned());
    let worker = Served::start_in(&group, &vars).await;
    worker.comfy_pid().await;
    let too_much = graph("Allocate", json!({"mib": 6 * 1024}));
    let id = worker.accept(json!({"input": {"workflow": too_much}})).await;
    // It waits behind that one, and is innocent.
    let behind = worker.accept(json!({"input": {"workflow": slow(2, 10, 1)}})).await;
    let failed = worker.end(&id).await.body;
    assert_eq!(text(&failed, "status"), "FAILED", "{failed:#}");
    let error = text(&failed, "error");
    for said in [
        "was killed by the kernel, since the container's memory limit of 3.0 GiB was reached",
        "smaller or quantised model",
        "--cache-none",
    ] {
        assert!(error.contains(said), "{error}");
    }
    let done = worker.end(&behind).await.body;
    assert_eq!(text(&done, "status"), "COMPLETED", "{done:#}");
    let health = worker.send(Method::GET, "/health", String::new()).await.body;
    assert_eq!(health["comfyui"]["generation"], json!(2), "{health:#}");
    worker.kill().await;
}
