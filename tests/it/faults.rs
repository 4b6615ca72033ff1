//! What breaks in the middle of a job: nodes, ComfyUI, the network.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::json;

use crate::support::proxy::Proxy;
use crate::support::{Worker, alone, graph, http, json_at, shared, slow, text, until};

/// Waits until ComfyUI itself runs a prompt.
async fn comfyui_runs(address: &str) {
    let url = format!("{address}queue");
    until("ComfyUI runs a prompt", async || {
        let queue = json_at(&url).await;
        queue["queue_running"]
            .as_array()
            .is_some_and(|running| !running.is_empty())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_raises_fails_the_job_and_names_the_place() {
    let worker = shared().await;
    let answer = worker
        .run(json!({"workflow": graph("Raise", json!({"message": "the lamp is out"}))}))
        .await;
    assert_eq!(
        (answer.status, &answer.body["status"]),
        (400, &json!("FAILED")),
        "{:#}",
        answer.body
    );
    assert!(
        answer
            .error()
            .contains("node 1 (Raise) failed: RuntimeError: the lamp is out"),
        "{}",
        answer.error()
    );
    assert_eq!(answer.body["details"][0]["node_id"], "1");
}

#[tokio::test]
async fn out_of_memory_is_said_in_the_documented_words() {
    let worker = shared().await;
    let answer = worker
        .run(json!({"workflow": graph("RaiseOOM", json!({"message": "Tried to allocate 20.00 GiB"}))}))
        .await;
    assert_eq!(answer.status, 500);
    assert!(answer.error().starts_with("CUDA out of memory"), "{}", answer.error());
    assert!(
        answer.error().contains("Reduce batch size or image resolution"),
        "{}",
        answer.error()
    );
}

#[tokio::test]
async fn an_interruption_from_comfyuis_own_page_ends_the_job() {
    let worker = alone().await;
    let address = worker.comfy_url().await;
    let (answer, ()) = tokio::join!(worker.run(json!({"workflow": slow(600, 50, 1)})), async {
        comfyui_runs(&address).await;
        http()
            .post(format!("{address}interrupt"))
            .send()
            .await
            .expect("an answer");
    });
    assert_eq!(answer.status, 500);
    assert!(answer.error().contains("interrupted"), "{}", answer.error());
}

#[tokio::test]
async fn a_killed_comfyui_is_started_again_and_the_job_runs_on_it() {
    let worker = alone().await;
    let (pid, address) = (worker.comfy_pid().await, worker.comfy_url().await);
    let (answer, ()) = tokio::join!(worker.run(json!({"workflow": slow(40, 50, 2)})), async {
        comfyui_runs(&address).await;
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is there");
    });
    answer.completed();
    assert_ne!(worker.comfy_pid().await, pid);
    worker.run(json!({"workflow": slow(1, 1, 3)})).await.completed();
}

#[tokio::test]
async fn a_graph_that_kills_comfyui_fails_with_its_last_lines_and_the_next_job_works() {
    let worker = alone().await;
    let answer = worker
        .run(json!({"workflow": graph("HardExit", json!({"code": 3}))}))
        .await;
    assert_eq!(
        (answer.status, &answer.body["status"]),
        (500, &json!("FAILED")),
        "{:#}",
        answer.body
    );
    let error = answer.error();
    assert!(
        error.contains("exit status 3") && error.contains("HardExit(3)"),
        "{error}"
    );
    worker.run(json!({"workflow": slow(1, 1, 4)})).await.completed();
}

#[tokio::test]
async fn a_websocket_that_breaks_loses_nothing() {
    let first = shared().await;
    let proxy = Proxy::to(&first.comfy_url().await).await;
    let worker = Worker::attached(&proxy.url, &[("WEBSOCKET_RECONNECT_DELAY_S", "0.1")]).await;
    let (answer, cut) = tokio::join!(worker.run(json!({"workflow": slow(40, 50, 5)})), async {
        worker.has_a_job_running().await;
        let mut cut = 0;
        until("a websocket is there to cut", async || {
            cut += proxy.cut();
            cut > 0
        })
        .await;
        cut
    });
    let answer = answer.completed();
    assert_eq!(cut, 1);
    assert_eq!(answer.images().len(), 1);
    assert!(
        !worker.first_image(&answer).await.is_empty(),
        "files come through ComfyUI's /view"
    );
}

#[tokio::test]
async fn a_silent_node_is_waited_for() {
    let first = shared().await;
    let proxy = Proxy::to(&first.comfy_url().await).await;
    // Without any reconnection the end is found in the history alone.
    let worker = Worker::attached(&proxy.url, &[("WEBSOCKET_RECONNECT_ATTEMPTS", "0")]).await;
    let (answer, ()) = tokio::join!(
        worker.run(json!({"workflow": graph("SlowSilent", json!({"ms": 7000, "seed": 6}))})),
        async {
            until("a websocket is there to cut", async || proxy.cut() > 0).await;
        }
    );
    answer.completed();
}

#[tokio::test]
async fn a_comfyui_that_is_not_there_is_an_error_that_says_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let worker = Worker::attached(&address, &[]).await;
    assert_eq!(worker.get("/ping").await.status(), 204);
    let answer = worker.run(json!({"workflow": slow(1, 1, 7)})).await;
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("ComfyUI did not answer"), "{}", answer.error());
    assert!(answer.error().contains("ask for /status/"), "{}", answer.error());
}

#[tokio::test]
async fn files_of_a_comfyui_that_is_gone_can_be_asked_for_again() {
    let first = shared().await;
    let comfyui = first.comfy_url().await;
    let proxy = Proxy::to(&comfyui).await;
    let worker = Worker::attached(&proxy.url, &[]).await;
    let answer = worker.run(json!({"workflow": slow(1, 1, 9)})).await.completed();
    let file = &answer.images()[0];
    let (name, folder) = (text(file, "filename"), text(file, "subfolder"));
    let view = format!("/view?filename={name}&subfolder={folder}&type=output");
    let body = json!({"prompt": "p", "size": "64x64", "seed": 10, "quality": "low"});
    let answer = worker
        .send(Method::POST, "/v1/images/generations", body.to_string())
        .await;
    let link = text(&answer.body["data"][0], "url").to_owned();
    let link = link
        .strip_prefix(&worker.url)
        .unwrap_or_else(|| panic!("{:#}", answer.body));
    let paths = [view.as_str(), link];
    for path in paths {
        assert_eq!(worker.get(path).await.status(), 200, "{path}");
    }
    let address = proxy.url.trim_start_matches("http://").to_owned();
    proxy.end().await;
    for path in paths {
        let answer = worker.get(path).await;
        let retry = answer.headers().contains_key("retry-after");
        assert_eq!((answer.status().as_u16(), retry), (503, true), "{path}");
        let said = answer.text().await.expect("a body");
        assert!(said.contains("ComfyUI"), "{path}: {said}");
    }
    let listener = tokio::net::TcpListener::bind(address).await.expect("its port again");
    let _proxy = Proxy::behind(listener, &comfyui);
    for path in paths {
        assert_eq!(worker.get(path).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_end_its_job() {
    // Its own count of jobs is no other test's.
    let worker = Worker::beside_shared(&[]).await;
    let body = json!({"input": {"workflow": slow(100, 50, 8)}}).to_string();
    let sent = http().post(format!("{}/runsync", worker.url)).body(body).send();
    let gone = tokio::select! {
        answer = sent => panic!("it was answered: {answer:?}"),
        () = worker.has_a_job_running() => "gone",
    };
    assert_eq!(gone, "gone");
    until("the job is done all the same", async || {
        worker.app.queue.counts().completed == 1
    })
    .await;
}
