//! Names of uploaded files, places of models, and graphs as their owners sent them.

use serde_json::json;

use super::*;
use crate::job::{Takes, take_contents};
use crate::workflow::Graph;

const ID: &str = "0192f0c1-7d5e-7c3a-9f10-0123456789ab";
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

fn asset(file_path: Option<&str>, content_type: &str) -> AssetContent {
    AssetContent {
        id: ID.to_owned(),
        hash: ContentHash::of(b""),
        bytes: 0,
        content_type: content_type.to_owned(),
        file_path: file_path.map(str::to_owned),
        model: None,
    }
}

fn named(file_path: &str, content_type: &str) -> String {
    let name = asset(Some(file_path), content_type).name().unwrap();
    assert_eq!(name.folder(), ID);
    name.file_name().to_owned()
}

#[test]
fn a_file_has_a_name_that_leads_nowhere_and_keeps_its_ending() {
    let long = "ü".repeat(300);
    for (file_path, content_type, name) in [
        ("photo.png", "image/png", "photo.png"),
        ("input/sub/photo.JPG", "image/png", "photo.JPG"),
        ("C:\\pictures\\photo.webp", "", "photo.webp"),
        ("photo", "image/jpeg; charset=binary", "photo.jpg"),
        ("photo", "application/octet-stream", "photo"),
        ("", "audio/wav", "asset.wav"),
        ("..", "image/png", "asset.png"),
        ("a/../.", "image/png", "asset.png"),
        ("   ", "x", "asset"),
        (".png", "", "asset.png"),
        ("photo.png [output]", "", "photo.png _output_"),
        ("a:b\n?.png", "", "a_b__.png"),
        ("photo.png. ", "", "photo.png"),
        ("日本語.mp4", "", "日本語.mp4"),
        ("fu\u{308}r.png", "", "für.png"),
    ] {
        assert_eq!(named(file_path, content_type), name, "{file_path:?}");
    }
    let cut = named(&format!("{long}.png"), "");
    assert!(cut.ends_with("ü.png") && cut.len() <= LONGEST_NAME, "{cut}");
    assert_eq!(named(&format!("a.{long}"), ""), "a");
    assert_eq!(asset(None, "video/mp4").name().unwrap().file_name(), "asset.mp4");
}

#[test]
fn a_model_has_a_folder_and_a_plain_name() {
    let place = |path| ModelPlace::of(path).map(|place| place.map(|place| (place.folder, place.name)));
    let found = |folder: &str, name: &str| Some(Ok((folder.to_owned(), name.to_owned())));
    assert_eq!(place("models/loras/a b.safetensors"), found("loras", "a b.safetensors"));
    assert_eq!(place("models/unet/x.gguf"), found("diffusion_models", "x.gguf"));
    assert_eq!(
        place("models/ipadapter/x.safetensors"),
        found("ipadapter", "x.safetensors")
    );
    assert_eq!(place("photo.png"), None);
    assert_eq!(place("input/models/loras/x.safetensors"), None);
    for wrong in [
        "models/",
        "models/loras",
        "models/loras/",
        "models//x.safetensors",
        "models/loras/sub/x.safetensors",
        "models/../x.safetensors",
        "models/loras/..",
        "models/loras/.safetensors",
        "models/loras/x.ckpt",
        "models/loras/x.pt",
        "models/loras/x",
        "models/loras/x\n.safetensors",
        "models/loras/a\\b.safetensors",
        "models/lo ras/x.safetensors",
    ] {
        assert!(matches!(place(wrong), Some(Err(_))), "{wrong}");
    }
}

#[test]
fn a_graph_is_shown_as_it_was_sent() {
    let data_uri = format!("data:image/png;base64,{PIXEL}");
    let sent = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": data_uri}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "https://example.com/a.png?sig=1"}},
        "3": {"class_type": "LoadImage", "inputs": {"image": "https://example.com/a.png?sig=1"}},
        "4": {"class_type": "LoadImage", "inputs": {"image": "s3://bucket/a 100%.png"}},
        "5": {"class_type": "LoadImage", "inputs": {"image": asset(Some("a/cat.png"), "").reference()}},
        "6": {"class_type": "Any", "inputs": {"x": [{"y": asset(Some("a/cat.png"), "").reference()}], "z": ["5", 0]}},
        "7": {"class_type": "LoadImage", "inputs": {"image": "there.png"}, "_meta": {"title": "there.png"}},
    });
    let mut graph = Graph::parse(&sent).unwrap();
    let mut images = Vec::new();
    take_contents(&mut graph, None, &mut images).unwrap();
    let content = asset(Some("a/cat.png"), "");
    let name = content.name().unwrap();
    crate::workflow::put_names(&mut graph, |id| (id == ID).then(|| name.as_str().to_owned()));
    images.push(InputImage {
        name,
        content: ImageContent::Asset(Box::new(content)),
        origin: Origin::Files,
    });
    // What came beside the graph is named in it.
    let beside = ImageName::parse("there.png").unwrap();
    images.push(InputImage::from_text_as(beside, PIXEL, Origin::Files, Takes::Media).unwrap());
    let mut shown = serde_json::to_value(&graph).unwrap();
    assert_ne!(shown, sent);
    put_references(&mut shown, &images);
    assert_eq!(shown, sent);
}

#[test]
fn what_was_stored_before_is_read() {
    let stored = json!({"id": ID, "hash": ContentHash::of(b""), "bytes": 7, "content_type": "image/png"});
    let read: AssetContent = serde_json::from_value(stored.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), stored);
}
