//! A Space of Hugging Face as an engine: one with the real Gradio, and a worker of ours that speaks as a Space does.

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::elsewhere::{Front, assert_png, images};
use crate::support::images_api::ImagesApi;
use crate::support::scripted::{Reply, Words, serving};
use crate::support::space::Space;
use crate::support::{Worker, text, until};

fn space(name: &str, url: &str, more: &str) -> String {
    format!("[[engine]]\nname = \"{name}\"\nkind = \"gradio\"\nurl = \"{url}\"\n{more}\n")
}

fn asked_for(prompt: &str, seed: u32) -> Value {
    json!({"prompt": prompt, "template": "qwen-image", "seed": seed})
}

#[tokio::test]
async fn a_space_makes_what_was_asked_for_and_tells_of_its_steps() {
    let real = Space::start().await;
    let front = Front::start(&space("space", &real.url, ""), &[]).await;
    let asked = json!({"prompt": "a fox", "seed": 200, "aspect_ratio": "3:2", "steps": 20, "cfg": 2.5});
    let answer = front.runsync(&asked).await.by("space");
    let content = front.picture(&answer).await;
    assert_png(&content, 1584, 1056);
    let made = image::load_from_memory(&content).expect("a picture").to_rgb8();
    assert_eq!(
        made.get_pixel(9, 9).0,
        [200, 80, 160],
        "its seed is that which was asked for"
    );
    assert_eq!(answer.body["output"]["seed"], 200);
    // The page's own state has its place among the values, and the Space does not write another prompt.
    assert_eq!(
        real.asked().await,
        [json!(["a fox", null, 200, false, "3:2", 2.5, 20, false])]
    );

    let id = front.accept(&asked_for("a slow fox", 8)).await;
    until("a step is told", async || {
        let status = front.status(&id).await;
        assert_ne!(status["status"], "COMPLETED", "it was over before a step was told");
        status["progress"]["step"].as_u64() > Some(1)
    })
    .await;
    // Another waits behind it, and is taken back before it has begun.
    let second = front.accept(&asked_for("a second fox", 9)).await;
    until("it waits there", async || real.waiting().await > 0).await;
    front.cancel(&second).await;
    until("it waits there no more", async || real.waiting().await == 0).await;
    front.cancel(&id).await;
    for id in [&id, &second] {
        assert_eq!(text(&front.status(id).await, "status"), "CANCELLED");
    }
    let after = front.runsync(&asked_for("a third fox", 10)).await.by("space");
    assert_png(&front.picture(&after).await, 1328, 1328);
    let prompts = |asked: Vec<Value>| asked.iter().map(|values| values[0].clone()).collect::<Vec<_>>();
    let asked = prompts(real.asked().await);
    assert_eq!(asked, ["a fox", "a slow fox", "a third fox"]);
    assert!(
        !real.ended().await.contains(&json!("a second fox")),
        "{:?}",
        real.ended().await
    );
}

#[tokio::test]
async fn each_error_of_a_space_has_its_meaning() {
    let (real, second) = (Space::start().await, ImagesApi::start().await);
    let engines = space("space", &real.url, "") + &images("second", &second.url, "group = 2");
    // Each with a front of its own, since some have the Space rest.
    for (prompt, expected, times) in [
        ("an aborted fox", Ok("second"), 1),
        ("a masked fox", Ok("second"), 1),
        // No GPU was free: it is asked once more, after the others.
        ("a busy fox", Ok("second"), 1),
        ("a refused fox", Err("No such foxes are drawn here"), 1),
        ("a fox without quota", Ok("second"), 1),
    ] {
        let front = Front::start(&engines, &[]).await;
        let before = (real.asked().await.len(), second.asked().len());
        let ended = front.runsync(&asked_for(prompt, 7)).await;
        assert_eq!(real.asked().await.len() - before.0, times, "{prompt}");
        match expected {
            Ok(engine) => {
                ended.by(engine);
                assert_eq!(second.asked().len() - before.1, 1, "{prompt}");
            }
            Err(words) => {
                ended.failed(&["space", words]);
                assert_eq!(second.asked().len(), before.1, "{prompt}");
            }
        }
        if prompt.contains("quota") {
            let engine = front.engine("space").await;
            let rests = engine["rests_s"].as_u64();
            assert!(
                (50..=61).contains(&rests.unwrap_or_default()),
                "as long as it says: {engine:#}"
            );
            assert!(
                text(&engine, "reason").contains("exceeded your GPU quota"),
                "{engine:#}"
            );
        }
    }
    second.settled();
}

#[tokio::test]
async fn a_job_that_waits_too_long_in_a_space_goes_elsewhere() {
    let (real, second) = (Space::start().await, ImagesApi::start().await);
    let engines = space("space", &real.url, "queue_timeout_s = 2") + &images("second", &second.url, "group = 2");
    let front = Front::start(&engines, &[]).await;
    let first = front.accept(&asked_for("a slow fox", 1)).await;
    until("it is begun", async || !real.asked().await.is_empty()).await;
    // The Space does one after the other.
    front.runsync(&asked_for("an impatient fox", 2)).await.by("second");
    front.cancel(&first).await;
    assert_eq!(real.asked().await.len(), 1, "{:?}", real.asked().await);
}

#[tokio::test]
async fn a_worker_of_ours_is_a_space() {
    let provider = Worker::beside_shared(&[]).await;
    let url = provider.url.as_str().trim_end_matches('/');
    let front = Front::start(&space("space", url, ""), &[]).await;
    let asked = json!({"prompt": "a harbour", "aspect_ratio": "16:9", "seed": 8_960, "steps": 1, "cfg": 1.0});
    let answer = front.runsync(&asked).await.by("space");
    assert_png(&front.picture(&answer).await, 1664, 928);
    assert_eq!(answer.body["output"]["seed"], 8_960);
}

#[tokio::test]
async fn what_is_no_such_space_is_told_and_nothing_is_sent() {
    for (answer, words) in [
        (Words::html(200), "it may sleep, or be being built"),
        (Words::html(503), "it may sleep, or be being built"),
        (
            Words::json(
                200,
                &json!({"dependencies": [{"id": 0, "api_name": "predict", "inputs": []}]}),
            ),
            "no function /infer, but /predict",
        ),
        (
            Words::json(401, &json!({"detail": "Not authenticated"})),
            "refuses our key",
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let _serving = serving(listener, move |connection, head| {
            let answer = answer.clone();
            async move {
                assert_eq!(head.method, "GET", "a job was sent");
                Reply::Well.give(connection, &answer).await
            }
        });
        let second = ImagesApi::start().await;
        let engines = space("space", &url, "") + &images("second", &second.url, "group = 2");
        let front = Front::start(&engines, &[]).await;
        front.runsync(&asked_for("a fox", 1)).await.by("second");
        let engine = front.engine("space").await;
        assert!(
            text(&engine, "reason").contains(words),
            "{engine:#} does not say {words}"
        );
    }
}

#[tokio::test]
async fn a_front_that_is_killed_sends_no_job_to_a_space_again() {
    let (real, second) = (Space::start().await, ImagesApi::start().await);
    let engines = space("space", &real.url, "") + &images("second", &second.url, "group = 2");
    let front = Front::start(&engines, &[]).await;
    let running = front.accept(&asked_for("a slow fox", 1)).await;
    until("it is begun", async || !real.asked().await.is_empty()).await;
    let waiting = front.accept(&asked_for("a waiting fox", 2)).await;
    until("it waits there", async || real.waiting().await > 0).await;
    let front = front.killed_and_started(&engines, &[]).await;
    for id in [&running, &waiting] {
        let end = front.end(id).await;
        // Gradio lets go of what nobody listens for; where it was quicker than that, the job is found again.
        if end.body["status"] == "FAILED" {
            let error = end.body["error"].to_string();
            assert!(error.contains("may have run") && error.contains("space"), "{error}");
        } else {
            assert_eq!(end.body["output"]["engine"], "space", "{:#}", end.body);
        }
    }
    assert!(real.asked().await.len() <= 2, "{:?}", real.asked().await);
    assert!(second.asked().is_empty(), "nobody pays twice");
    // The Space goes on.
    until("the Space has nothing to do", async || real.waiting().await == 0).await;
    front.runsync(&asked_for("another fox", 3)).await.by("space");
}
