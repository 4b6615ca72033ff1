//! RunPod's operations as people use them without a client of RunPod's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Worker, graph, shared, slow, text, until};

/// A name and its data.
type Event = (String, Value);

/// Reads `/events/{id}` to its end.
async fn events(worker: &Worker, id: &str) -> Vec<Event> {
    let answer = worker.get(&format!("/events/{id}")).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream; charset=utf-8");
    let text = answer.text().await.expect("events");
    let blocks = text.split("\n\n").filter(|block| block.contains("event:"));
    blocks
        .map(|block| {
            let field = |name: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_else(|| panic!("no {name} in {block:?}"))
                    .trim()
                    .to_owned()
            };
            (field("event:"), serde_json::from_str(&field("data:")).expect("JSON"))
        })
        .collect()
}

async fn runs(worker: &Worker, id: &str) {
    until("the job runs", async || worker.status(id).await == "IN_PROGRESS").await;
}

#[tokio::test]
async fn a_job_is_followed_from_run_to_its_file() {
    let worker = shared().await;
    let id = worker.accept(slow(2, 10, 6_000)).await;
    let end = worker.end(&id).await.completed();
    assert!(!worker.first_image(&end).await.is_empty());
    for base in ["", "/v2/any-endpoint"] {
        for method in [Method::GET, Method::POST] {
            let again = worker.send(method, &format!("{base}/status/{id}"), "").await;
            assert_eq!((again.status, &again.body), (200, &end.body), "{base}");
        }
    }
}

#[tokio::test]
async fn runsync_answers_with_the_id_when_its_wait_is_over() {
    let worker = shared().await;
    let body = json!({"input": {"workflow": slow(100, 50, 6_010)}}).to_string();
    let answer = worker.send(Method::POST, "/runsync?wait=1000", body).await;
    assert_eq!(answer.status, 200);
    assert!(
        ["IN_PROGRESS", "IN_QUEUE"].contains(&text(&answer.body, "status")),
        "{}",
        answer.body
    );
    worker.end(text(&answer.body, "id")).await.completed();
}

#[tokio::test]
async fn a_failed_job_is_an_error_at_the_root_and_an_answer_under_v2() {
    let worker = shared().await;
    let body = json!({"input": {"workflow": graph("Raise", json!({"message": "the lamp is out"}))}}).to_string();
    for (path, status) in [("/runsync", 400), ("/v2/any-endpoint/runsync", 200)] {
        let answer = worker.send(Method::POST, path, body.clone()).await;
        assert_eq!(
            (answer.status, text(&answer.body, "status")),
            (status, "FAILED"),
            "{path}"
        );
        assert!(answer.error().contains("the lamp is out"));
        // Asking is no error, whatever became of the job.
        let asked = worker.ask(&format!("/status/{}", text(&answer.body, "id"))).await;
        assert_eq!((asked.status, asked.body), (200, answer.body));
    }
}

#[tokio::test]
async fn events_tell_the_progress_and_end_with_the_answer() {
    let worker = shared().await;
    let id = worker.accept(slow(60, 50, 6_020)).await;
    let seen = events(&worker, &id).await;
    let (last, before) = seen.split_last().expect("events");
    assert_eq!(
        (last.0.as_str(), text(&last.1, "status")),
        ("status", "COMPLETED"),
        "{seen:?}"
    );
    assert!(last.1["output"]["images"][0].is_object(), "{last:?}");
    let (previews, before): (Vec<_>, Vec<_>) = before.iter().partition(|(name, _)| name == "preview");
    assert!(
        before.len() > 1 && before.iter().all(|(name, _)| name == "progress"),
        "{seen:?}"
    );
    let (_, preview) = previews.last().expect("a preview");
    assert_eq!(text(preview, "media_type"), "image/jpeg");
    let picture = STANDARD.decode(text(preview, "image")).expect("base64");
    let kind = imagesize::image_type(&picture).expect("a picture");
    assert_eq!(kind, imagesize::ImageType::Jpeg);
    let percents: Vec<u64> = before.iter().filter_map(|(_, data)| data["percent"].as_u64()).collect();
    assert!(
        percents.is_sorted() && percents.iter().all(|percent| *percent <= 100),
        "{percents:?}"
    );
    assert!(
        before
            .iter()
            .any(|(_, data)| data["class_type"] == "SlowProgress" && data["steps"] == 60),
        "{seen:?}"
    );
    // Who comes late gets the answer and nothing else.
    assert_eq!(events(&worker, &id).await, std::slice::from_ref(last));
}

#[tokio::test]
async fn stream_hands_each_chunk_out_once() {
    let worker = shared().await;
    let id = worker.accept(slow(60, 50, 6_030)).await;
    let mut steps = Vec::new();
    let mut methods = [Method::GET, Method::POST].into_iter().cycle();
    loop {
        let method = methods.next().expect("a method");
        let answer = worker.send(method, &format!("/stream/{id}"), "").await;
        let chunks = answer.body["stream"].as_array().expect("always a list").clone();
        steps.extend(chunks.iter().filter_map(|chunk| chunk["output"]["step"].as_u64()));
        if chunks.is_empty() && text(&answer.body, "status") == "COMPLETED" {
            break;
        }
    }
    assert!(steps.len() > 1 && steps.is_sorted(), "{steps:?}");
}

#[tokio::test]
async fn a_cancelled_job_stays_so_until_it_is_retried() {
    let worker = shared().await;
    let id = worker.accept(slow(100, 50, 6_040)).await;
    runs(&worker, &id).await;
    for _ in 0..2 {
        let answer = worker.send(Method::POST, &format!("/cancel/{id}"), "{}").await;
        assert_eq!((answer.status, text(&answer.body, "status")), (200, "CANCELLED"));
    }
    assert_eq!(text(&worker.end(&id).await.body, "status"), "CANCELLED");
    let answer = worker.send(Method::POST, &format!("/retry/{id}"), "").await;
    assert_eq!(answer.body, json!({"id": id, "status": "IN_QUEUE"}));
    worker.end(&id).await.completed();
    // What is completed is neither cancelled nor run again.
    let answer = worker.send(Method::POST, &format!("/cancel/{id}"), "").await;
    assert_eq!((answer.status, text(&answer.body, "status")), (200, "COMPLETED"));
    let answer = worker.send(Method::POST, &format!("/retry/{id}"), "").await;
    assert_eq!(answer.status, 409, "{}", answer.body);
}

#[tokio::test]
async fn requests_lists_the_newest_first() {
    let worker = Worker::beside_shared(&[]).await;
    let mut ids = Vec::new();
    for seed in 0..3 {
        ids.push(worker.accept(slow(1, 1, 6_050 + seed)).await);
    }
    for id in &ids {
        worker.end(id).await.completed();
    }
    ids.reverse();
    let listed = async |query: &str| {
        let answer = worker.ask(&format!("/requests{query}")).await;
        let jobs = answer.body["requests"].as_array().expect("a list").clone();
        jobs.iter().map(|job| text(job, "id").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, ids);
    assert_eq!(listed("?status=COMPLETED&limit=2").await, ids[..2]);
    assert!(listed("?status=FAILED").await.is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_is_wrong_400() {
    let worker = shared().await;
    for base in ["", "/v2/any-endpoint"] {
        for (method, path) in [
            (Method::GET, "/status/none"),
            (Method::POST, "/status/none"),
            (Method::GET, "/status-sync/none?wait=1000"),
            (Method::GET, "/stream/none"),
            (Method::POST, "/cancel/none"),
            (Method::POST, "/retry/none"),
            (Method::GET, "/status/%ff"),
            (Method::GET, "/nowhere"),
        ] {
            let answer = worker.send(method.clone(), &format!("{base}{path}"), "").await;
            assert_eq!(answer.status, 404, "{method} {base}{path}");
            assert!(!answer.error().is_empty());
        }
        let wrong = worker.send(Method::GET, &format!("{base}/cancel/none"), "").await;
        assert_eq!(wrong.status, 405);
        assert!(wrong.error().contains("takes POST, not GET"), "{}", wrong.error());
    }
    assert_eq!(worker.ask("/events/none").await.status, 404);
    for (path, field) in [
        ("/requests?limit=0", "limit"),
        ("/requests?status=completed", "status"),
        ("/status-sync/none?wait=soon", "wait"),
    ] {
        let answer = worker.ask(path).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.error().contains(field), "{path}: {}", answer.error());
    }
    for (field, value) in [
        ("policy", json!("soon")),
        ("policy.executionTimeout", json!({"executionTimeout": 1})),
        ("policy.ttl", json!({"ttl": "1d"})),
        ("policy.lowPriority", json!({"lowPriority": 1})),
        ("priority", json!(1_000)),
        ("webhook", json!("somewhere")),
    ] {
        let name = field.split('.').next().unwrap_or_default();
        let mut body = json!({"input": {"workflow": slow(1, 1, 6_060)}});
        body[name] = value;
        for path in ["/run", "/runsync", "/v2/any-endpoint/run"] {
            let answer = worker.send(Method::POST, path, body.to_string()).await;
            assert_eq!(answer.status, 400, "{field}");
            assert!(answer.error().contains(&format!("{field}: ")), "{}", answer.error());
        }
    }
}

#[tokio::test]
async fn who_comes_late_is_told_the_present_state_first() {
    let worker = shared().await;
    let id = worker.accept(slow(60, 50, 6_070)).await;
    let mut known = None;
    until("the job is under way", async || {
        known = worker.ask(&format!("/status/{id}")).await.body["progress"]["step"].as_u64();
        known > Some(2)
    })
    .await;
    let (one, other) = tokio::join!(events(&worker, &id), events(&worker, &id));
    for seen in [&one, &other] {
        assert_eq!(
            (seen[0].0.as_str(), text(&seen[0].1, "status")),
            ("progress", "IN_PROGRESS")
        );
        assert!(seen[0].1["step"].as_u64() >= known, "{:?}", seen[0]);
        // Each step has a picture of its own, so what is told twice shows.
        let pictures: Vec<&str> = seen
            .iter()
            .filter(|(name, _)| name == "preview")
            .map(|(_, data)| text(data, "image"))
            .collect();
        let different: std::collections::HashSet<&str> = pictures.iter().copied().collect();
        assert!(pictures.len() > 1 && different.len() == pictures.len());
        assert_eq!(seen.iter().filter(|(name, _)| name == "status").count(), 1);
        assert_eq!(
            seen.last().map(|(name, data)| (name.as_str(), text(data, "status"))),
            Some(("status", "COMPLETED"))
        );
    }
}

#[tokio::test]
async fn two_who_ask_for_the_stream_share_its_chunks() {
    let worker = shared().await;
    let id = worker.accept(slow(60, 50, 6_080)).await;
    let poll = async || {
        let mut percents = Vec::new();
        loop {
            let answer = worker.ask(&format!("/stream/{id}")).await;
            let chunks = answer.body["stream"].as_array().expect("always a list");
            percents.extend(chunks.iter().filter_map(|chunk| chunk["output"]["percent"].as_u64()));
            if chunks.is_empty() && text(&answer.body, "status") == "COMPLETED" {
                return percents;
            }
        }
    };
    let (one, other) = tokio::join!(poll(), poll());
    assert!(one.is_sorted() && other.is_sorted(), "{one:?} {other:?}");
    let mut all = [one, other].concat();
    all.sort_unstable();
    let handed_out = all.len();
    all.dedup();
    assert!(handed_out > 2 && all.len() == handed_out, "{all:?}");
    let answer = worker.ask(&format!("/stream/{id}")).await;
    assert_eq!(answer.body, json!({"status": "COMPLETED", "stream": []}));
}
