use super::*;
use crate::workflow::Parameters;

fn load(files: &[(&str, &str)]) -> Result<Templates, TemplateError> {
    let files = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Templates::load(&files.collect())
}

#[test]
fn a_users_file_replaces_or_adds() {
    let graph = r#"{"p": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}},
        "s": {"class_type": "SaveImage", "inputs": {"images": ["p", 0]}}}"#;
    let bindings = "title = 'Mine'\nkind = 'generate'\n[inputs]\nprompt = ['p.text', 's.images']\n[output]\nnode = 's'\nimages = 'images'";
    let templates = load(&[
        ("mine.json", graph),
        ("mine.bindings.toml", bindings),
        ("notes.txt", "?"),
    ])
    .expect("templates");
    let mine = templates.get("mine").expect("mine");
    assert_eq!((mine.bindings.title.as_str(), mine.images()), ("Mine", 0..=0));
    let error = templates
        .render(
            "mine",
            &Parameters {
                steps: Some(4),
                ..Parameters::default()
            },
        )
        .expect_err("no place");
    assert!(
        error
            .full_text()
            .contains("steps: template `mine` has no place for it; these templates have: qwen-image,")
    );

    let title = "title = 'Other'\nkind = 'generate'\n[inputs]\nprompt = 'positive.text'\n[output]\nnode = 'save'\nimages = 'images'";
    let templates = load(&[("qwen-image.bindings.toml", title)]).expect("templates");
    assert_eq!(
        templates
            .get("qwen-image")
            .map(|template| template.bindings.title.as_str()),
        Some("Other")
    );
}

#[test]
fn every_mistake_in_a_users_folder_is_told_with_file_and_names() {
    let graph = r#"{"p": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["q", 0]}}}"#;
    let bindings = r#"
        title = "Mine"
        kind = "edit"
        [inputs]
        prompt = "p.txt"
        seed = "sampler.seed"
        [loras]
        after = "lora"
        [images]
        nodes = ["p"]
        at_least = 2
        [output]
        node = "save"
        images = "images"
    "#;
    let error = load(&[
        ("mine.json", graph),
        ("mine.bindings.toml", bindings),
        ("alone.json", "{}"),
        ("lonely.bindings.toml", ""),
        ("typo.json", graph),
        ("typo.bindings.toml", "title = 'x'\nkind = 'generate'\ncolour = 1\n"),
        ("place.json", "{"),
        (
            "place.bindings.toml",
            "title = 'x'\nkind = 'generate'\n[inputs]\nprompt = 'nodot'\n[output]\nnode='a'\nimages='b'",
        ),
    ])
    .expect_err("mistakes");
    insta::assert_snapshot!(error.mistakes.join("\n"));
}
