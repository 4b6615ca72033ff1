//! What the end of a job is answered with, where it is not the usual one: it is cancelled, the worker stops, the disk is full.

use std::io::Write as _;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::durability::{attached, job};
use crate::support::binary::Served;
use crate::support::{Worker, shared, slow, text, until};

#[tokio::test]
async fn a_job_that_somebody_calls_off_is_no_failure_of_ours_to_whoever_waits_for_it() {
    let worker = Worker::beside_shared(&[]).await;
    let body = |seed| json!({"input": {"workflow": slow(600, 50, seed)}}).to_string();
    let cancel = async {
        until("the jobs are there", async || {
            let counts = worker.app.queue.counts();
            counts.in_progress == 1 && counts.in_queue == 1
        })
        .await;
        let listed = worker.ask("/requests").await.body["requests"].clone();
        for job in listed.as_array().expect("a list") {
            // The id as a KIE client would know it is known too.
            let id = format!("qwen_task_{}", text(job, "id"));
            let retried = worker.send(Method::POST, &format!("/retry/{id}"), "").await;
            assert_eq!(retried.status, 409, "{:#}", retried.body);
            assert_eq!(
                text(&worker.ask(&format!("/status/{id}")).await.body, "id"),
                text(job, "id")
            );
            worker.send(Method::POST, &format!("/cancel/{id}"), "").await;
        }
    };
    let (at_the_root, below, ()) = tokio::join!(
        worker.send(Method::POST, "/runsync", body(1)),
        worker.send(Method::POST, "/v2/any/runsync", body(2)),
        cancel
    );
    for answer in [at_the_root, below] {
        assert_eq!(
            (answer.status, text(&answer.body, "status")),
            (200, "CANCELLED"),
            "{:#}",
            answer.body
        );
        assert!(answer.body.get("error").is_none() && answer.body.get("output").is_none());
    }
}

#[tokio::test]
async fn whoever_waits_when_the_grace_is_over_is_told_the_id_and_the_job_runs_at_the_next_start() {
    const FOLDER: &str = "grace";
    let shared = shared().await;
    let data = tempfile::tempdir().expect("a folder");
    let mut vars = attached(data.path(), &shared.comfy_url().await, &[("SHUTDOWN_GRACE_S", "1")]);
    let mut worker = Served::start(&vars).await;
    let held = worker.send(Method::POST, "/runsync", job(FOLDER, 200, 0).to_string());
    let others = async {
        until("the job runs", async || {
            worker.ask("/requests?status=IN_PROGRESS").await.body["requests"] != json!([])
        })
        .await;
        let listed = worker.ask("/requests").await.body["requests"].clone();
        let id = text(&listed[0], "id").to_owned();
        let events = reqwest::Client::builder().no_proxy().build().expect("a client");
        let events = events
            .get(format!("{}/events/{id}", worker.url))
            .send()
            .await
            .expect("a stream");
        let path = format!("/status-sync/{id}");
        let asked = worker.ask(&path);
        let stop = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            worker.terminate();
        };
        let (asked, streamed, ()) = tokio::join!(asked, events.text(), stop);
        (id, asked, streamed.expect("the whole stream"))
    };
    let (held, (id, asked, streamed)) = tokio::join!(held, others);
    let place = format!("/status/{id}");
    for answer in [held, asked] {
        assert_eq!(
            (answer.status, &answer.body["retry-after"]),
            (503, &json!(true)),
            "{:#}",
            answer.body
        );
        assert!(answer.error().contains(&place), "{}", answer.error());
    }
    let (_, last) = streamed.rsplit_once("event: ").expect("an event");
    assert!(last.starts_with("stopping\n") && last.contains(&place), "{last}");
    assert_eq!(worker.exit_code().await, Some(0));

    vars.insert("SHUTDOWN_GRACE_S".to_owned(), "30".to_owned());
    let worker = Served::start(&vars).await;
    let end = worker.end(&id).await.completed();
    // It counts from the job's coming, not from this start.
    assert!(end.body["delayTime"].as_u64() >= Some(1000), "{:#}", end.body);
}

#[tokio::test]
async fn a_full_disk_is_said_as_it_is_until_there_is_room_again() {
    let shared = shared().await;
    let data = tempfile::tempdir().expect("a folder");
    let vars = attached(data.path(), &shared.comfy_url().await, &[]);
    let worker = Served::start_on_a_small_disk(24, &vars).await;
    until("it takes jobs", async || {
        worker.try_send(Method::GET, "/ping", String::new()).await.is_ok()
    })
    .await;
    let filling = worker.its_own(&data.path().join("filling"));
    let mut file = std::fs::File::create(&filling).expect("a file");
    while file.write_all(&[0; 4096]).is_ok() {}
    // What is left of the log's last page may take one more.
    until("a job is refused", async || {
        worker
            .send(Method::POST, "/run", job("full", 1, 0).to_string())
            .await
            .status
            != 200
    })
    .await;
    let picture = json!({"prompt": "p"}).to_string();
    let edit = json!({"prompt": "p", "image1_url": "https://example.com/a.png"}).to_string();
    for (path, body) in [
        ("/run", job("full", 1, 1).to_string()),
        ("/runsync", job("full", 1, 2).to_string()),
        ("/v1/images/generations", picture.clone()),
        ("/api/v1/qwen/generate", picture),
        ("/edit/edit-image", edit),
    ] {
        let answer = worker.send(Method::POST, path, body).await;
        assert_eq!(
            (answer.status, &answer.body["retry-after"]),
            (503, &json!(true)),
            "{path} {:#}",
            answer.body
        );
        assert!(
            answer.body.to_string().contains("disk of the worker is full"),
            "{path} {:#}",
            answer.body
        );
    }
    let ping = worker.ask("/ping").await;
    assert_eq!((ping.status, text(&ping.body, "state")), (503, "disk_full"));
    assert!(text(&ping.body, "error").contains("DATA_DIR"), "{:#}", ping.body);

    drop(file);
    std::fs::remove_file(filling).expect("it is there");
    until("it takes jobs again, by itself", async || {
        worker.ask("/ping").await.status == 200
    })
    .await;
    let id = worker.accept(job("full", 1, 3)).await;
    worker.end(&id).await.completed();
    worker.kill().await;
}
