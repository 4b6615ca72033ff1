//! Saved workflows on a ComfyUI that describes two classes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::super::testing::{FakeComfy, executor, executor_on};
use super::*;
use crate::comfy::Comfy;
use crate::workflow::Saved;

fn saved() -> SavedRequest {
    let workflow = json!({
        "version": 0.4, "last_node_id": 2, "last_link_id": 1,
        "nodes": [
            {"id": 1, "type": "Maker", "mode": 0, "inputs": [], "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
             "widgets_values": [64]},
            {"id": 2, "type": "Keeper", "mode": 0, "inputs": [{"name": "images", "type": "IMAGE", "link": 1}], "outputs": []},
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    });
    SavedRequest {
        workflow: Saved::from_value(workflow).unwrap(),
        inputs: Map::new(),
        seed: None,
    }
}

fn described(class: &str) -> Option<Value> {
    let (inputs, outputs) = match class {
        "Maker" => (
            json!({"size": ["INT", {"default": 8, "min": 1, "max": 512}]}),
            json!(["IMAGE"]),
        ),
        "Keeper" => (json!({"images": ["IMAGE"]}), json!([])),
        _ => return None,
    };
    let info = json!({
        "input": {"required": inputs}, "output": outputs, "output_name": outputs, "output_is_list": [], "name": class,
        "output_node": class == "Keeper", "python_module": "nodes",
    });
    Some(json!({ class: info }))
}

/// A ComfyUI, what it was asked, and whether `Keeper` is there.
async fn comfy() -> (FakeComfy, Arc<Mutex<Vec<String>>>, Arc<AtomicBool>) {
    let (asked, is_whole): (Arc<Mutex<Vec<String>>>, Arc<AtomicBool>) = Default::default();
    is_whole.store(true, Ordering::Relaxed);
    let (noted, whole) = (Arc::clone(&asked), Arc::clone(&is_whole));
    let comfy = FakeComfy::start(move |path, _| {
        if path == "/object_info" {
            return (200, "{}".to_owned());
        }
        let Some(class) = path.strip_prefix("/object_info/") else {
            return (404, String::new());
        };
        noted.lock().unwrap().push(class.to_owned());
        let found = described(class).filter(|_| class != "Keeper" || whole.load(Ordering::Relaxed));
        (200, found.unwrap_or_else(|| json!({})).to_string())
    });
    (comfy.await, asked, is_whole)
}

#[tokio::test]
async fn its_classes_are_described_once() {
    let data = tempfile::tempdir().unwrap();
    let (comfy, asked, _) = comfy().await;
    let executor = executor_on(Comfy::attached(&comfy.url.parse().unwrap()).unwrap(), data.path());
    for _ in 0..3 {
        let converted = executor.convert(saved()).await.unwrap();
        assert_eq!(
            serde_json::to_value(&converted.graph).unwrap()["1"]["inputs"],
            json!({"size": 64})
        );
        assert_eq!(converted.graph.nodes["2"].inputs["images"], json!(["1", 0]));
        assert!(!converted.chose, "nothing was left to a seed");
    }
    let mut asked = asked.lock().unwrap().clone();
    asked.sort();
    assert_eq!(asked, ["Keeper", "Maker"]);
    assert!(matches!(executor.convert_now(&saved()).await, Some(Ok(_))));
}

#[tokio::test]
async fn a_class_that_comes_later_is_found_and_an_absent_one_is_told() {
    let data = tempfile::tempdir().unwrap();
    let (comfy, _, is_whole) = comfy().await;
    let executor = executor_on(Comfy::attached(&comfy.url.parse().unwrap()).unwrap(), data.path());
    is_whole.store(false, Ordering::Relaxed);
    let error = executor.convert(saved()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidWorkflow);
    let problem = error
        .problems
        .iter()
        .find(|problem| problem.node_id.as_deref() == Some("2"));
    let problem = problem.unwrap_or_else(|| panic!("{}", error.full_text()));
    assert!(problem.message.contains("\"Keeper\""), "{problem}");
    let fault = problem.fault.as_deref().expect("as ComfyUI tells it");
    assert_eq!(fault.kind, FaultKind::MissingNodeType);
    is_whole.store(true, Ordering::Relaxed);
    assert!(executor.convert(saved()).await.is_ok());
}

#[tokio::test]
async fn without_a_comfyui_it_may_be_tried_later() {
    let data = tempfile::tempdir().unwrap();
    let (executor, _boot) = executor(data.path());
    let error = executor.convert(saved()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ComfyUnavailable);
    assert!(executor.convert_now(&saved()).await.is_none());
}

#[test]
fn a_job_has_the_same_seed_at_each_attempt_and_another_than_the_next() {
    let (one, two) = (JobId::new(), JobId::new());
    assert_eq!(one.seed(), JobId::parse(one.as_str()).unwrap().seed());
    assert_ne!(one.seed(), two.seed());
    assert!(one.seed() < 1 << 53);
}
