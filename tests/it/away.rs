//! A ComfyUI that is away, odd or sick: jobs wait for it, and what it says is understood.

use std::os::unix::ffi::OsStrExt as _;

use base64::Engine as _;
use serde_json::json;

use crate::support::proxy::Proxy;
use crate::support::{Worker, alone, graph, shared, slow, text, until};

#[tokio::test]
async fn jobs_wait_for_a_comfyui_that_is_restarted() {
    let first = shared().await;
    let comfyui = first.comfy_url().await;
    let proxy = Proxy::to(&comfyui).await;
    let address = proxy.url.trim_start_matches("http://").to_owned();
    // One that is lost is not run again: it must be found.
    let worker = Worker::attached(&proxy.url, &[("JOB_RETRIES", "0")]).await;
    let mut ids = vec![worker.accept(slow(20, 50, 31)).await];
    worker.has_a_job_running().await;
    for seed in 32..37 {
        ids.push(worker.accept(slow(1, 1, seed)).await);
    }
    proxy.end().await;
    let body = json!({"input": {"workflow": slow(1, 1, 37)}}).to_string();
    let told = worker.post(body).await;
    assert_eq!(told.status, 503, "{:#}", told.body);
    let health = worker.ask("/health").await.body;
    assert_eq!(health["jobs"]["failed"], 0, "{health:#}");
    let listener = tokio::net::TcpListener::bind(address).await.expect("its port again");
    let _proxy = Proxy::behind(listener, &comfyui);
    for id in ids {
        let end = worker.end(&id).await;
        assert_eq!(text(&end.body, "status"), "COMPLETED", "{:#}", end.body);
    }
    // The one whose client was told has its answer too.
    until("the last job is done", async || {
        worker.app.queue.counts().completed == 7
    })
    .await;
    assert!(told.error().contains("/status/"), "{}", told.error());
}

#[tokio::test]
async fn what_python_writes_is_understood() {
    let worker = shared().await;
    let shown = json!({"1": {"class_type": "ShowNan", "inputs": {"text": "hello", "limit": 2.0}}});
    let answer = worker.run(json!({ "workflow": shown })).await.completed();
    assert!(answer.body["output"].to_string().contains("hello"), "{:#}", answer.body);
    let raised = json!({
        "1": {"class_type": "Nan", "inputs": {}},
        "2": {"class_type": "RaiseWithNan", "inputs": {"number": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "test/nan"}},
    });
    let answer = worker.run(json!({ "workflow": raised })).await;
    assert_eq!(answer.status, 400, "{:#}", answer.body);
    assert!(
        answer.error().contains("cannot convert float NaN to integer"),
        "{}",
        answer.error()
    );

    // A name that is no UTF-8 is in the description of each node that loads images.
    let folders = worker.app.comfy.folders().expect("a ComfyUI of ours");
    let odd = folders.input.join(std::ffi::OsStr::from_bytes(b"caf\xe9.png"));
    std::fs::write(&odd, "").expect("a file");
    let mut picture = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(16, 16)
        .write_to(&mut picture, image::ImageFormat::Png)
        .expect("an encoder");
    let picture = base64::engine::general_purpose::STANDARD.encode(picture.into_inner());
    let loaded = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "test/odd"}},
    });
    // A worker that knows no node yet.
    let other = Worker::attached(&worker.comfy_url().await, &[]).await;
    let input = json!({"workflow": loaded, "images": [{"name": "a.png", "image": picture}]});
    let answer = other.run(input).await;
    std::fs::remove_file(&odd).expect("it is there");
    answer.completed();
}

#[tokio::test]
async fn a_process_that_can_use_the_gpu_no_more_is_replaced_and_the_job_run_again() {
    let worker = alone().await;
    let pid = worker.comfy_pid().await;
    let message = "CUDA error: an illegal memory access was encountered";
    let sick = graph("RaiseOnce", json!({"message": message, "mark": "sick"}));
    worker.run(json!({ "workflow": sick })).await.completed();
    assert_ne!(worker.comfy_pid().await, pid);
    worker.run(json!({"workflow": slow(1, 1, 38)})).await.completed();
}
