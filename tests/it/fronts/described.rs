//! Fronts whose engine is a worker of ours on the real ComfyUI that serves HTTP: what it tells of its node classes.

use serde_json::{Value, json};

use super::{done, small};
use crate::support::binary::Served;
use crate::support::elsewhere::{Front, runpod};
use crate::support::nats::{Nats, PASSWORD, USER};
use crate::support::runpod_api::{Route, RunpodApi};
use crate::support::{Answer, Worker, http, json_at, shared, slow, until};

const OURS: &str = "worker = \"qwen-image-worker\"";

/// A worker as an entry of a list.
fn served(worker: &Worker) -> String {
    runpod("served", &format!("{}/v2/any", worker.url), OURS)
}

/// A graph with a class that no ComfyUI has, and an input that none takes.
fn wrong(seed: u32) -> Value {
    let mut graph = slow(1, 1, seed);
    graph["8"] = json!({"class_type": "NoSuchNode", "inputs": {"a": 1}});
    graph
}

async fn post(url: &str, path: &str, body: &Value) -> Answer {
    let request = http().post(format!("{url}{path}")).body(body.to_string());
    let answer = request.send().await.expect("an answer");
    Answer {
        status: answer.status().as_u16(),
        body: answer.json().await.expect("JSON"),
    }
}

#[tokio::test]
async fn a_front_tells_the_node_classes_of_its_engine() {
    let worker = shared().await;
    let front = Front::start(&served(&worker), &[]).await;
    for path in [
        "object_info/KSampler",
        "api/object_info/KSampler",
        "object_info/NoSuchNode",
    ] {
        let there = json_at(&format!("{}/{path}", worker.url)).await;
        assert_eq!(json_at(&format!("{}/{path}", front.url())).await, there, "{path}");
    }
    // ComfyUI's own has numbers in it that are no JSON.
    let there = http()
        .get(format!("{}/object_info", worker.url))
        .send()
        .await
        .expect("an answer");
    let there = there.text().await.expect("a text");
    let here = json_at(&format!("{}/object_info", front.url())).await;
    let number = here.as_object().map(serde_json::Map::len);
    assert_eq!(number, Some(there.matches("\"python_module\":").count()));
    assert_eq!(here["KSampler"]["name"], "KSampler");
    // Of an engine that is none of ours nothing is known.
    let api = RunpodApi::scripted(done()).await;
    let front = Front::start(&runpod("first", &api.url, OURS), &[]).await;
    let answer = http()
        .get(format!("{}/object_info", front.url()))
        .send()
        .await
        .expect("an answer");
    assert!(answer.status().is_server_error(), "{}", answer.status());
}

#[tokio::test]
async fn a_graph_that_no_engine_could_run_is_refused_as_its_worker_would() {
    let worker = shared().await;
    let front = Front::start(&served(&worker), &[]).await;
    let input = json!({"input": {"workflow": wrong(9_700)}});
    let here = post(front.url(), "/runsync", &input).await;
    let there = post(&worker.url, "/runsync", &input).await;
    assert_eq!(here.status, 400, "{:#}", here.body);
    assert_eq!(here.error(), there.error());
    assert!(here.error().contains("NoSuchNode"), "{}", here.error());
    let prompt = json!({"prompt": wrong(9_701)});
    let (here, there) = (
        post(front.url(), "/prompt", &prompt).await,
        post(&worker.url, "/prompt", &prompt).await,
    );
    assert_eq!((here.status, here.body), (there.status, there.body));
}

#[tokio::test]
async fn a_graph_that_one_engine_refuses_goes_to_another_of_which_nothing_is_known() {
    let worker = shared().await;
    let api = RunpodApi::scripted(done()).await;
    let engines = served(&worker) + &runpod("other", &api.url, "group = 2");
    let front = Front::start(&engines, &[]).await;
    front.runsync(&json!({"workflow": wrong(9_710)})).await.by("other");
    front
        .runsync_with(
            &json!({"workflow": wrong(9_711)}),
            &json!({"policy": {"fallback": "never"}}),
        )
        .await
        .by("other");
    assert_eq!(api.count(Route::Run), 2);
    // A template is filled here, and nothing is asked for it.
    let alone = Front::start(&runpod("other", &api.url, OURS), &[]).await;
    alone.runsync(&small(9_712)).await.by("other");
    api.settled();
}

#[tokio::test]
async fn the_workers_of_a_fleet_tell_its_fronts() {
    let worker = shared().await;
    let nats = Nats::start().await;
    let engine = format!(
        "[[engine]]\nname = \"fleet\"\nkind = \"fleet\"\nurl = \"{}\"\nkey = \"env:NATS_KEY\"\n",
        nats.bare_url()
    );
    let front = Front::start(&engine, &[("NATS_KEY", &format!("{USER}:{PASSWORD}"))]).await;
    let data = tempfile::tempdir().expect("a folder");
    let vars = [
        ("DATA_DIR", data.path().display().to_string()),
        ("PORT", "0".to_owned()),
        ("EDIT_PORT", "none".to_owned()),
        ("COMFYUI_URL", worker.comfy_url().await),
        ("FLEET_URL", nats.url()),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value));
    let _member = Served::start(&vars.into()).await;
    until("the front knows the classes", async || {
        let answer = http().get(format!("{}/object_info/KSampler", front.url())).send().await;
        answer.expect("an answer").status() == 200
    })
    .await;
    let there = json_at(&format!("{}/object_info/KSampler", worker.url)).await;
    assert_eq!(json_at(&format!("{}/object_info/KSampler", front.url())).await, there);
    let input = json!({"input": {"workflow": wrong(9_720)}});
    let here = post(front.url(), "/runsync", &input).await;
    assert_eq!(here.status, 400, "{:#}", here.body);
    assert_eq!(here.error(), post(&worker.url, "/runsync", &input).await.error());
    front.runsync(&json!({"workflow": slow(1, 1, 9_721)})).await.by("fleet");
}
