//! Workflows as the page saves them, in the place of a prompt.

use serde_json::{Value, json};

use super::{ID, graph, parsed, read};
use crate::dialect::comfyui::{Checked, Refusal, accepted};
use crate::error::{ErrorKind, Fault, FaultKind, JobError, Problem};
use crate::job::{JobId, Work};
use crate::workflow::Graph;
use crate::workflow::convert::Converted;

fn page() -> Value {
    json!({
        "id": "w", "version": 0.4, "last_node_id": 2, "last_link_id": 1,
        "nodes": [
            {"id": 1, "type": "EmptyImage", "mode": 0, "inputs": [], "widgets_values": [64],
             "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}]},
            {"id": 2, "type": "SaveImage", "mode": 0, "outputs": [], "widgets_values": ["a"],
             "inputs": [{"name": "images", "type": "IMAGE", "link": 1}]},
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    })
}

#[test]
fn what_the_page_saves_is_taken_and_its_pictures_hold_it() {
    let prompt = parsed(&json!({ "prompt": page() })).unwrap();
    assert!(prompt.graph.nodes.is_empty());
    let (request, policy) = prompt.job(None, String::new());
    let Work::Saved(saved) = request.work else {
        panic!("{:?}", request.work)
    };
    assert_eq!(*saved.workflow.as_value(), page());
    assert_eq!(request.extra_data["extra_pnginfo"], json!({ "workflow": page() }));
    assert_eq!(policy.prompt.unwrap().workflow_id.as_deref(), Some("w"));

    // What the client says of it is left alone.
    let own = json!({"extra_pnginfo": {"workflow": {"id": "mine"}}});
    let mut prompt = parsed(&json!({"prompt": page(), "extra_data": own})).unwrap();
    prompt.converted(Converted {
        graph: Graph::parse(&graph()).unwrap(),
        warnings: vec!["mind the gap".to_owned()],
        chose: false,
    });
    let told = read(&accepted(
        &JobId::parse(ID).unwrap(),
        1,
        &Checked::default(),
        &prompt.warnings,
    ));
    assert_eq!(told["warnings"], json!(["mind the gap"]));
    let (request, _) = prompt.job(None, String::new());
    assert!(matches!(request.work, Work::Workflow(_)));
    assert_eq!(Value::from(request.extra_data), own);
    assert_eq!(request.warnings, ["mind the gap"]);
}

#[test]
fn a_workflow_that_is_not_converted_names_its_nodes() {
    let problem = |id: &str, input: Option<&str>, fault: Option<Fault>| Problem {
        node_id: Some(id.to_owned()),
        class_type: Some("KSampler".to_owned()),
        input: input.map(str::to_owned),
        message: "holds a text".to_owned(),
        fault: fault.map(Box::new),
    };
    let error = |problems| JobError::new(ErrorKind::InvalidWorkflow, "cannot be converted").problems(problems);
    let said = error(vec![
        problem("3", Some("steps"), None),
        problem("3", None, None),
        problem("5:1", None, None),
    ]);
    let said = read(&Refusal::saved(&said).answer());
    assert_eq!(said["error"]["type"], "invalid_prompt");
    assert_eq!(said["error"]["message"], "cannot be converted");
    assert_eq!(
        said["node_errors"]["3"],
        json!({
            "errors": [
                {"type": "saved_workflow_not_converted", "message": "holds a text", "details": "steps",
                 "extra_info": {"input_name": "steps"}},
                {"type": "saved_workflow_not_converted", "message": "holds a text", "details": "", "extra_info": {}},
            ],
            "dependent_outputs": [],
            "class_type": "KSampler",
        })
    );
    assert_eq!(said["node_errors"].as_object().unwrap().len(), 2);
    let fault = Fault::new(FaultKind::MissingNodeType, "not found", "Node ID '#3'");
    let said = read(&Refusal::saved(&error(vec![problem("3", None, Some(fault))])).answer());
    assert_eq!(said["error"]["type"], "missing_node_type");
    assert_eq!(said["node_errors"]["3"]["errors"][0]["type"], "missing_node_type");
    assert_eq!(
        said["node_errors"]["3"]["errors"][0]["extra_info"]["advice"],
        "holds a text"
    );
}
