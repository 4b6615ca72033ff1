//! Which inputs name files, and which texts are none.

use serde_json::json;

use super::*;
use crate::workflow::testing;

#[test]
fn a_text_that_can_be_no_name_is_told_from_one_that_can() {
    let base64 = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q";
    for (text, content) in [
        ("data:image/png;base64,iVBO", Some(Content::DataUri)),
        (" DATA:,", Some(Content::DataUri)),
        ("https://example.com/a.png", Some(Content::Address)),
        ("S3://bucket/key", Some(Content::Address)),
        ("file:///etc/passwd", Some(Content::Address)),
        (&format!("{base64}=="), Some(Content::Base64)),
        (&"QUJD\n".repeat(60), Some(Content::Base64)),
        ("", None),
        ("a.png", None),
        ("folder/a.png [input]", None),
        ("C://a.png é", Some(Content::Address)),
        ("://", None),
        ("a b://c", None),
        (base64.get(..60).unwrap_or_default(), None),
        (&format!("{base64}.png"), None),
        (&"x".repeat(255), None),
        (&format!("{}.png", "x".repeat(300)), None),
        (&"é".repeat(300), None),
        ("a prompt that mentions https://example.com", None),
    ] {
        assert_eq!(Content::of(text), content, "{text}");
    }
}

#[test]
fn only_texts_of_inputs_that_take_files_are_contents() {
    let uri = "data:image/png;base64,iVBO";
    let mut graph = Graph::parse(&json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": uri, "upload": uri}},
        "2": {"class_type": "LoadImage", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": uri}},
        "4": {"class_type": "LoadSomethingUnknown", "inputs": {"url": uri}},
        "5": {"class_type": "LoadLatent", "inputs": {"latent": uri}},
        "6": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "7": {"class_type": "Load3DAdvanced", "inputs": {"model_file": uri, "viewport_state": {"image": "a.png"}}},
    }))
    .expect("a graph");
    assert!(may_hold_contents(&graph));
    for schemas in [None, Some(testing::schemas())] {
        let found = contents(&mut graph, schemas.as_ref());
        let places: Vec<String> = found.iter().map(|(place, _)| place.to_string()).collect();
        assert_eq!(
            places,
            [
                "`image` of node 1 (LoadImage)",
                "`latent` of node 5 (LoadLatent)",
                "`model_file` of node 7 (Load3DAdvanced)",
            ]
        );
    }
    assert!(!may_hold_contents(&testing::changed(|_| ())));
}

#[test]
fn loaders_are_known_by_their_names() {
    for class in ["LoadImage", "VHS_LoadVideo", "Pack.LoadMesh", "LoadSomethingUnknown"] {
        assert!(is_loader(class), "{class}");
    }
    for class in ["UNETLoader", "LoraLoaderModelOnly", "SaveImage", "ReloadAll", ""] {
        assert!(!is_loader(class), "{class}");
    }
}
