//! Against what the real page makes of the same files: 28 cases of our own, 100 official templates, and the widgets of all
//! classes. `tests/data/ui-format` has them.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;
use serde_json::{Map, Value};

use super::tests::{convert, described};
use super::values::Values;
use super::widgets::Shape;

fn data(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/ui-format")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(super) fn unpacked(name: &str) -> String {
    let mut text = String::new();
    GzDecoder::new(&*data(name)).read_to_string(&mut text).expect("gzip");
    text
}

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).expect("JSON")
}

/// The first difference between two graphs, `_meta` aside; numbers are doubles.
fn difference(made: &Value, page: &Value) -> Option<String> {
    let (made, page) = (made.as_object()?, page.as_object()?);
    let ids: BTreeSet<&String> = made.keys().chain(page.keys()).collect();
    ids.into_iter().find_map(|id| {
        let (Some(ours), Some(theirs)) = (made.get(id), page.get(id)) else {
            return Some(format!("node {id} is in one of them only"));
        };
        let class = &theirs["class_type"];
        if ours["class_type"] != *class {
            return Some(format!("node {id}: {} and {class}", ours["class_type"]));
        }
        let (ours, theirs) = (ours["inputs"].as_object()?, theirs["inputs"].as_object()?);
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        names.into_iter().find_map(|name| {
            let (ours, theirs) = (ours.get(name), theirs.get(name));
            let same = ours.zip(theirs).is_some_and(|(ours, theirs)| same(ours, theirs));
            (!same).then(|| format!("node {id} ({class}), {name}: {ours:?}, and the page sends {theirs:?}"))
        })
    })
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Every way in which the cases differ from the page.
fn check(name: &str, ui: Value, page: &Value, fits: bool) -> Option<String> {
    let is_error = page.get("page_error").is_some();
    let expected = if is_error { page.get("or") } else { Some(page) };
    match convert(ui) {
        Err(error) if is_error || !fits => {
            assert!(!error.problems.is_empty(), "{name}: {}", error.full_text());
            None
        }
        Err(error) => Some(format!("{name}: refused: {}", error.full_text())),
        Ok(made) if !fits => made
            .warnings
            .is_empty()
            .then(|| format!("{name}: nothing is said of what does not fit")),
        Ok(made) => {
            let graph = serde_json::to_value(&made.graph).expect("JSON");
            let Some(expected) = expected else {
                return Some(format!("{name}: should be refused"));
            };
            difference(&graph, expected).map(|difference| format!("{name}: {difference}"))
        }
    }
}

#[test]
fn our_own_cases_become_what_the_page_makes_of_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ui-format/ours");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("the cases")
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".ui.json")?.to_owned()))
        .collect();
    names.sort();
    assert_eq!(names.len(), 28);
    let wrong: Vec<String> = names
        .iter()
        .filter_map(|name| {
            let ui = json(&data(&format!("ours/{name}.ui.json")));
            let page = json(&data(&format!("ours/{name}.api.json")));
            check(name, ui, &page, true)
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn official_templates_become_what_the_page_makes_of_them() {
    let workflows = unpacked("templates-ui.jsonl.gz");
    let mut workflows = workflows.lines().map(|line| json(line.as_bytes()));
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in unpacked("templates.jsonl.gz").lines() {
        let line = json(line.as_bytes());
        let name = line["template"].as_str().expect("a name");
        let mut workflow = workflows.next().expect("a workflow");
        assert_eq!(workflow["template"], name);
        let fits = line["fits"] == true;
        wrong.extend(check(name, workflow["ui"].take(), &line["api"], fits));
        count += 1;
    }
    assert_eq!(count, 100);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_template_that_does_not_fit_is_told_of_by_node() {
    let workflows = unpacked("templates-ui.jsonl.gz");
    for line in unpacked("templates.jsonl.gz").lines() {
        let line = json(line.as_bytes());
        let name = &line["template"];
        let Some(misfits) = line["misfit"].as_array() else {
            continue;
        };
        let workflow = workflows
            .lines()
            .map(|line| json(line.as_bytes()))
            .find(|line| line["template"] == *name);
        let made = convert(workflow.expect("a workflow")["ui"].take());
        let said = match made {
            Ok(made) => made.warnings.join("\n"),
            Err(error) => error.full_text(),
        };
        for misfit in misfits {
            // `271 OpenAIGPTImageNodeV2.n='auto'`
            let misfit = misfit.as_str().expect("a text");
            let (id, class) = misfit.split_once(' ').expect("a node");
            let class = class.split(['.', '=']).next().expect("a class");
            let id = id.rsplit(':').next().expect("an id");
            assert!(
                said.contains(&format!("{id} ({class})")),
                "{name}: {misfit} is not told of: {said}"
            );
        }
    }
}

#[test]
fn nodes_of_all_classes_have_the_widgets_that_the_page_gives_them() {
    let page: Map<String, Value> = serde_json::from_str(&unpacked("page-nodes.json.gz")).expect("JSON");
    let mut wrong = Vec::new();
    for (class, described) in described() {
        let shape = Shape::of(class, described, &mut Values::none());
        let flag = |widget: &Value, name: &str| widget[name] != false;
        let theirs: Vec<(String, bool, bool, bool)> = page[class]["widgets"]
            .as_array()
            .expect("widgets")
            .iter()
            .map(|widget| {
                let name = widget["name"].as_str().expect("a name").to_owned();
                let is_prompt = widget["dynamicPrompts"] == true;
                (name, flag(widget, "saved"), flag(widget, "sent"), is_prompt)
            })
            // Nothing depends on players and previews.
            .filter(|(_, is_saved, is_sent, _)| *is_saved || *is_sent)
            .collect();
        let ours: Vec<_> = shape
            .widgets
            .iter()
            .map(|widget| {
                let is_prompt = widget.declared.is("dynamicPrompts");
                (widget.name.to_string(), widget.is_saved, widget.is_sent, is_prompt)
            })
            .collect();
        if ours != theirs {
            wrong.push(format!("{class}: {ours:?}, and in the page {theirs:?}"));
        }
        let names: BTreeSet<&str> = shape.sockets.iter().map(|socket| &*socket.name).collect();
        let sockets = page[class]["inputs"].as_array().expect("inputs");
        let theirs: BTreeSet<&str> = sockets
            .iter()
            .filter_map(|socket| socket["name"].as_str())
            .filter(|name| *name != "audioUI" && !(*name == "image" && matches!(&**class, "SaveGLB" | "Preview3D")))
            .collect();
        if names != theirs {
            wrong.push(format!("{class}: sockets {names:?}, and in the page {theirs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
