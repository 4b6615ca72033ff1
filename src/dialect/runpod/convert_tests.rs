//! Bodies of `/convert`.

use super::*;
use crate::dialect::schema::tests::example;
use crate::workflow::Saved;

const PICTURE: &[u8] = include_bytes!("../../../tests/data/embedded/save_image.png");

fn whole(body: &Value) -> Result<Conversion, JobError> {
    parse_conversion(Body::Whole(body.to_string().into()))
}

fn part(name: &str, is_file: bool, content: impl Into<Bytes>) -> Part {
    Part {
        name: name.to_owned(),
        is_file,
        content: content.into(),
    }
}

fn page() -> Value {
    super::example()
}

fn graph() -> Value {
    json!({"1": {"class_type": "A", "inputs": {}}, "workflow": {"class_type": "B", "inputs": {}}})
}

#[test]
fn a_workflow_is_taken_alone_and_within_an_object() {
    for body in [
        page(),
        json!({"workflow": page()}),
        json!({"workflow": page().to_string(), "seed": -1}),
    ] {
        let conversion = whole(&body).unwrap();
        let Workflow::Saved(saved) = conversion.workflow else {
            panic!("{body}")
        };
        assert_eq!((saved.workflow.as_value(), saved.seed), (&page(), None));
        assert!(conversion.warnings.is_empty());
    }
    for body in [graph(), json!({"workflow": graph()})] {
        let Workflow::Graph(found) = whole(&body).unwrap().workflow else {
            panic!("{body}")
        };
        assert_eq!(serde_json::to_value(found).unwrap(), graph());
    }
    let told = whole(&json!({"workflow": page(), "seeds": 7})).unwrap().warnings;
    assert!(told[0].contains("did you mean `seed`?"), "{told:?}");
}

#[test]
fn what_is_no_workflow_is_refused() {
    for (body, words) in [
        (json!({}), "The request has no workflow"),
        (json!({"workflow": null}), "The request has no workflow"),
        (json!({"workflow": 7}), "the graph is a number"),
        (json!({"workflow": "rubbish"}), "the text holds no JSON"),
        (json!({"workflow": {}}), "the graph has no nodes"),
        (json!([]), "must be a JSON object"),
        (json!({"workflow": page(), "inputs": {"a": 1}}), "inputs.a: is no input"),
        (json!({"workflow": page(), "inputs": 7}), "inputs: must be an object"),
        (json!({"workflow": page(), "seed": "x"}), "seed: must be"),
    ] {
        let error = whole(&body).unwrap_err().full_text();
        assert!(error.contains(words), "`{words}` is not in: {error}");
    }
    for rubbish in [&b""[..], b"rubbish", b"\x89PNG\r\n\x1a\n", b"GIF89a"] {
        assert!(parse_conversion(Body::Whole(Bytes::from_static(rubbish))).is_err());
    }
}

#[test]
fn a_form_has_one_file_and_fields_beside_it() {
    let parsed = |parts: Vec<Part>| parse_conversion(Body::Form(parts));
    let file = |content: &[u8]| part("file", true, content.to_vec());
    let text = page().to_string();
    for parts in [
        vec![file(text.as_bytes()), part("seed", false, "7")],
        vec![part("seed", false, "7"), part("workflow", false, text.clone())],
        vec![
            part("upload", true, text.clone()),
            part("seed", false, "7"),
            part("inputs", false, ""),
        ],
        vec![
            file(json!({"workflow": page(), "seed": 8}).to_string().as_bytes()),
            part("seed", false, "7"),
        ],
    ] {
        let Workflow::Saved(saved) = parsed(parts).unwrap().workflow else {
            panic!("a workflow of the page")
        };
        assert_eq!(saved.seed, Some(7));
    }
    // Its graph; but with inputs for the other, that.
    assert!(matches!(
        parsed(vec![file(PICTURE)]).unwrap().workflow,
        Workflow::Graph(_)
    ));
    let error = parsed(vec![part("inputs", false, r#"{"a": 1}"#), file(PICTURE)]).unwrap_err();
    assert!(
        error.message.contains("inputs.a: is no input of this workflow"),
        "{error}"
    );
    let error = parsed(vec![file(PICTURE), file(PICTURE)]).unwrap_err();
    assert!(error.message.contains("2 files"), "{error}");
    assert!(parsed(vec![part("inputs", false, "rubbish"), file(PICTURE)]).is_err());
    assert!(parsed(Vec::new()).is_err());
    let seeds = |seeds: &[&'static str]| {
        let seeds = seeds.iter().map(|seed| part("seed", false, *seed));
        parsed(seeds.chain([file(text.as_bytes())]).collect())
    };
    assert!(seeds(&["7"]).is_ok() && seeds(&["-1"]).is_ok());
    for wrong in [&["7", "7"][..], &["null"], &["x"]] {
        assert!(seeds(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn its_examples_are_taken_as_they_are() {
    let body = example(&conversion());
    assert!(Saved::from_value(body["workflow"].clone()).is_ok());
    assert!(whole(&body).is_ok());
    let form = example(&conversion_form());
    let file = form["file"].as_str().unwrap().to_owned();
    assert!(parse_conversion(Body::Form(vec![part("file", true, file)])).is_ok());
}
