//! Workflows in both forms, and files that stand for requests.

use super::super::parse;
use super::*;

fn graph() -> Value {
    json!({"1": {"class_type": "A", "inputs": {}}})
}

fn page() -> Value {
    json!({
        "version": 0.4, "last_node_id": 1, "last_link_id": 0, "links": [],
        "nodes": [{"id": 1, "type": "A", "mode": 0, "inputs": [], "outputs": [], "widgets_values": []}],
    })
}

/// One that names an input.
fn app() -> Value {
    let mut app = page();
    app["nodes"][0]["inputs"] = json!([{"name": "text", "type": "STRING", "widget": {"name": "text"}, "link": null}]);
    app["nodes"][0]["widgets_values"] = json!(["a fox"]);
    app["extra"] = json!({"linearMode": true, "linearData": {"inputs": [[1, "text"]], "outputs": []}});
    app
}

fn saved(body: &Value) -> SavedRequest {
    let (request, _) = parse(body.to_string().as_bytes()).unwrap();
    match request.work {
        Work::Saved(saved) => saved,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(body: &Value, words: &[&str]) {
    let error = parse(body.to_string().as_bytes()).unwrap_err().full_text();
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

#[test]
fn what_the_page_saves_is_taken_as_an_object_and_as_a_text() {
    for workflow in [page(), json!(page().to_string()), json!(format!("\u{feff}{}", page()))] {
        let saved = saved(&json!({"input": {"workflow": workflow, "seed": 7}}));
        assert_eq!(*saved.workflow.as_value(), page());
        assert_eq!((saved.seed, saved.inputs.len()), (Some(7), 0));
    }
    let (request, _) = parse(
        json!({"input": {"workflow": page(), "steps": 3}})
            .to_string()
            .as_bytes(),
    )
    .unwrap();
    assert_eq!(request.warnings.len(), 1, "{:?}", request.warnings);
    assert!(request.warnings[0].contains("`steps` has no effect"));
    assert_eq!(request.takes(), crate::job::Takes::Media);
}

#[test]
fn inputs_have_the_names_that_the_workflow_gives_them() {
    let name = Saved::from_value(app()).unwrap().named_inputs().remove(0).name;
    let saved = saved(&json!({"input": {"workflow": app(), "inputs": {&name: "a hare"}}}));
    assert_eq!(saved.inputs[&name], "a hare");
    refused(
        &json!({"input": {"workflow": app(), "inputs": {"promt": "a hare"}}}),
        &["inputs.promt: is no input of this workflow; the inputs are", &name],
    );
    refused(
        &json!({"input": {"workflow": page(), "inputs": {"prompt": "a hare"}}}),
        &["inputs.prompt: is no input of this workflow; the workflow names no inputs"],
    );
    refused(
        &json!({"input": {"workflow": graph(), "inputs": {"prompt": "a hare"}}}),
        &["inputs: stands beside a graph in API format"],
    );
    refused(
        &json!({"input": {"prompt": "a fox", "inputs": {"prompt": "a hare"}}}),
        &["inputs: has no place beside `prompt`"],
    );
    refused(
        &json!({"input": {"prompt": "a fox", "inputs": false}}),
        &["inputs: must be an object"],
    );
    refused(
        &json!({"input": {"workflow": app()}, "inputs": {"prompt": "a hare"}}),
        &["inputs: stands beside `input` and belongs into it"],
    );
    refused(
        &json!({"input": {"workflow": app(), "inputs": ["a hare"]}}),
        &["inputs: must be an object"],
    );
}

#[test]
fn the_graph_that_ran_is_returned_where_that_is_asked() {
    for (asked, expected) in [(json!(true), true), (json!(false), false), (Value::Null, false)] {
        let body = json!({"input": {"workflow": graph(), "return_workflow": asked}});
        let (request, _) = parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(request.delivery.return_workflow, expected);
    }
    refused(
        &json!({"input": {"workflow": graph(), "return_workflow": "yes"}}),
        &["return_workflow"],
    );
}

#[test]
fn a_file_is_a_request_or_a_workflow_or_holds_one() {
    let read = |text: &str| parse_file(text.as_bytes()).map(|(request, _)| request.work);
    for workflow in [graph(), page()] {
        for text in [
            workflow.to_string(),
            json!({ "workflow": workflow }).to_string(),
            json!({"input": {"workflow": workflow}}).to_string(),
        ] {
            let work = read(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let is_page = workflow == page();
            assert_eq!(matches!(work, Work::Saved(_)), is_page, "{text}");
            assert_eq!(matches!(work, Work::Workflow(_)), !is_page, "{text}");
        }
    }
    assert!(matches!(read(r#"{"prompt": "a fox"}"#), Ok(Work::Template(_))));
    assert!(matches!(
        read(r#"{"input": {"prompt": "a fox"}}"#),
        Ok(Work::Template(_))
    ));
    for picture in [
        &include_bytes!("../../../tests/data/embedded/save_image.png")[..],
        include_bytes!("../../../tests/data/embedded/save_video.mp4"),
    ] {
        let (request, _) = parse_file(picture).unwrap();
        assert!(matches!(request.work, Work::Workflow(_)), "its graph comes first");
    }
    for rubbish in ["rubbish", "[]", "7", "{}", "{\"a\": 1}", ""] {
        assert!(read(rubbish).is_err(), "{rubbish}");
    }
}
