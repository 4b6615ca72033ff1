//! The health check, as RunPod's load balancer asks it: 200 only while jobs can run.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::binary::{binary, said_after};
use crate::support::{Worker, alone, fresh_data, graph, slow, until};

/// Continues a stopped process however the test ends.
struct Continued(Pid);

impl Drop for Continued {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

async fn ping(worker: &Worker) -> u16 {
    worker.get("/ping").await.status().as_u16()
}

#[tokio::test]
async fn a_killed_comfyui_is_starting_until_the_next_one_is_ready() {
    let worker = alone().await;
    let pid = worker.comfy_pid().await;
    assert_eq!(ping(&worker).await, 200);
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is there");
    until("the death is seen", async || ping(&worker).await == 204).await;
    worker.ready().await;
    assert_ne!(worker.comfy_pid().await, pid);
    worker.run(json!({"workflow": slow(1, 1, 6_000)})).await.completed();
}

#[tokio::test]
async fn a_stopped_comfyui_is_unhealthy_until_it_is_continued() {
    let worker = alone().await;
    let pid = Pid::from_raw(worker.comfy_pid().await);
    kill(pid, Signal::SIGSTOP).expect("it is there");
    let stopped = Continued(pid);
    until("the stop is seen", async || ping(&worker).await == 503).await;
    let health = worker.ask("/health").await.body;
    assert_eq!(
        (&health["comfyui"]["state"], &health["comfyui"]["pid"]),
        (&json!("suspended"), &json!(pid.as_raw()))
    );
    assert_eq!(
        (&health["workers"]["ready"], &health["workers"]["unhealthy"]),
        (&json!(0), &json!(1))
    );
    drop(stopped);
    until("it goes on", async || ping(&worker).await == 200).await;
    worker.run(json!({"workflow": slow(1, 1, 6_001)})).await.completed();
}

#[tokio::test]
async fn a_comfyui_that_is_too_busy_to_answer_is_healthy() {
    let worker = alone().await;
    let stats = format!("{}system_stats", worker.comfy_url().await);
    let impatient = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_millis(250))
        .build()
        .expect("a client");
    let workflow = graph("HoldInterpreter", json!({"ms": 8_000, "seed": 6_002}));
    let (answer, ()) = tokio::join!(worker.run(json!({"workflow": workflow})), async {
        // From before the job runs on, so that the time in which nobody is answered is not missed.
        until("ComfyUI answers nobody", async || {
            impatient.get(&stats).send().await.is_err()
        })
        .await;
        assert_eq!(ping(&worker).await, 200);
    });
    answer.completed();
}

#[tokio::test]
async fn a_comfyui_that_ends_again_and_again_is_given_up() {
    let (data, mut vars) = fresh_data();
    let root = data.path().join("broken");
    std::fs::create_dir(&root).expect("a folder");
    std::fs::write(root.join("main.py"), "raise SystemExit(3)\n").expect("a file");
    vars.insert("COMFYUI_DIR".into(), root.display().to_string());
    vars.insert("COMFYUI_PYTHON".into(), "python3".into());
    let worker = Worker::start(vars).await;
    until("it is given up, and never healthy before", async || {
        let status = ping(&worker).await;
        assert_ne!(status, 200);
        status == 503
    })
    .await;
    let body: Value = worker.get("/ping").await.json().await.expect("JSON");
    assert_eq!(body["state"], "failed");
    assert!(
        body["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("exit status 3")),
        "{body}"
    );
}

#[tokio::test]
async fn a_worker_that_stops_is_unhealthy_while_it_finishes_its_jobs() {
    let worker = Worker::beside_shared(&[]).await;
    worker.ready().await;
    assert_eq!(ping(&worker).await, 200);
    let (answer, ()) = tokio::join!(worker.run(json!({"workflow": slow(40, 50, 6_003)})), async {
        worker.has_a_job_running().await;
        let ((), ()) = tokio::join!(worker.app.queue.drain(), async {
            until("it says so", async || ping(&worker).await == 503).await;
        });
    });
    answer.completed();
}

#[tokio::test]
async fn an_attached_comfyui_that_never_answers_does_not_hold_up_the_health_check() {
    // The kernel takes the connections; nobody reads from them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", silent.local_addr().expect("an address"));
    let worker = Worker::attached(&address, &[]).await;
    assert_eq!(ping(&worker).await, 204);
}

#[tokio::test]
async fn the_health_check_has_its_own_path_and_port_and_needs_no_key() {
    let data = tempfile::tempdir().expect("a folder");
    let vars = [
        ("COMFYUI_URL", "http://127.0.0.1:9"),
        ("DATA_DIR", data.path().to_str().expect("UTF-8")),
        ("PORT", "0"),
        ("PORT_HEALTH", "0"),
        ("HEALTH_CHECK_PATH", "/healthz"),
        ("API_KEY", "secret-key"),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let mut child = binary(&vars).arg("serve").spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut log = String::new();
    let health_check = said_after("the health check is at ", &mut lines, &mut log).await;
    let url = said_after("listening on ", &mut lines, &mut log).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let status = async |url: String| client.get(url).send().await.expect("an answer").status().as_u16();
    assert_eq!(status(health_check.clone()).await, 204);
    for path in ["/ping", "/healthz"] {
        assert_eq!(status(format!("{url}{path}")).await, 204, "{path}");
    }
    for path in ["/health", "/healthz/more", "/runsync"] {
        assert_eq!(status(format!("{url}{path}")).await, 401, "{path}");
    }
    let health_port = health_check.trim_end_matches("/healthz");
    assert_ne!(health_port, url);
    for path in ["/ping", "/health", "/runsync", "/view", "/v2/x/health"] {
        assert_eq!(status(format!("{health_port}{path}")).await, 404, "{path}");
    }
}

#[tokio::test]
async fn a_route_of_ours_gives_way_to_the_health_check() {
    for (path, post_is_there) in [("/health", false), ("/runsync", true)] {
        let worker = Worker::attached("http://127.0.0.1:9", &[("HEALTH_CHECK_PATH", path)]).await;
        assert_eq!(worker.get(path).await.status(), 204, "{path}");
        assert_eq!(ping(&worker).await, 204);
        assert_eq!(worker.get("/v2/any/health").await.status(), 200);
        let answer = worker.send(reqwest::Method::POST, path, "{}").await;
        assert_eq!(answer.status == 400, post_is_there, "{answer:?}");
    }
}
