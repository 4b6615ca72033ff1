//! Files in place of their names.

use serde_json::{Value, json};

use super::*;
use crate::workflow::ClassSpec;

/// A PNG of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
/// The header of a WAV.
const SOUND: &str = "data:audio/wav;base64,UklGRiQAAABXQVZFZm10IA==";

fn graph(nodes: &[(&str, &str, &str)]) -> Graph {
    let nodes = (1..).zip(nodes).map(|(id, (class, input, text))| {
        let node = json!({"class_type": class, "inputs": {*input: text}});
        (id.to_string(), node)
    });
    Graph::parse(&Value::Object(nodes.collect())).unwrap()
}

fn taken(graph: &mut Graph) -> Result<Vec<InputImage>, String> {
    let mut images = Vec::new();
    let taken = take_contents(graph, None, &mut images).map_err(|error| error.full_text());
    taken.map(|()| images)
}

fn text<'g>(graph: &'g Graph, id: &str, input: &str) -> &'g str {
    graph.nodes[id].inputs[input].as_str().unwrap()
}

#[test]
fn a_file_in_a_loader_becomes_one_of_the_job() {
    let sound_at = "https://example.com/songs/a.MP3?signature=4711";
    let mut graph = graph(&[
        ("LoadImage", "image", PIXEL),
        ("LoadAudio", "audio", SOUND),
        ("LoadAudio", "audio", sound_at),
        ("VHS_LoadAudioUpload", "audio", sound_at),
        ("LoadVideo", "file", "https://example.com/download"),
        ("LoadImage", "image", "photo.png"),
        ("CLIPTextEncode", "text", "https://example.com/a.png"),
        ("VHS_LoadVideoPath", "video", "https://example.com/a.mp4"),
    ]);
    let images = taken(&mut graph).unwrap();
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["graph_1.png", "graph_2.wav", "graph_3.mp3", "graph_4"]);
    assert_eq!(images[2].url().map(url::Url::as_str), Some(sound_at));
    for (id, input, found) in [
        ("1", "image", "graph_1.png"),
        ("2", "audio", "graph_2.wav"),
        ("3", "audio", "graph_3.mp3"),
        ("4", "audio", "graph_3.mp3"),
        ("5", "file", "graph_4"),
        ("6", "image", "photo.png"),
        ("7", "text", "https://example.com/a.png"),
        ("8", "video", "https://example.com/a.mp4"),
    ] {
        assert_eq!(text(&graph, id, input), found, "node {id}");
    }
    // Nothing is left for a second look.
    assert_eq!(taken(&mut graph).unwrap(), []);
}

#[test]
fn the_pictures_of_a_3d_view_are_taken_too() {
    let view = json!({"image": PIXEL, "mask": format!("data:image/png;base64,{PIXEL}"), "normal": "n.png", "recording": "",
        "camera_info": {"position": {"x": 1}}});
    let mut graph =
        Graph::parse(&json!({"7": {"class_type": "Load3D", "inputs": {"model_file": "none", "image": view}}})).unwrap();
    let images = taken(&mut graph).unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(
        images[1].origin.subject(&images[1].name),
        "the file in `image.mask` of node 7 (Load3D)"
    );
    let view = &graph.nodes["7"].inputs["image"];
    assert_eq!(
        (&view["mask"], &view["normal"]),
        (&json!("graph_2.png"), &json!("n.png"))
    );
}

#[test]
fn what_comfyui_describes_as_an_upload_is_looked_at_once_it_is_known() {
    let mut graph = graph(&[("Narrate", "voice", SOUND), ("Narrate", "text", "https://example.com")]);
    assert_eq!(taken(&mut graph).unwrap(), []);
    let described = json!({"input": {"required": {
        "voice": [["a.wav"], {"audio_upload": true}], "text": ["STRING", {}]}}});
    let mut schemas = Schemas::default();
    let spec = ClassSpec::parse("Narrate", &described);
    schemas.classes.insert("Narrate".to_owned(), spec.into());
    // A name that the request gave to another file.
    let name = ImageName::parse("graph_1.wav").unwrap();
    let mut images = vec![InputImage::from_text(name, PIXEL).unwrap()];
    take_contents(&mut graph, Some(&schemas), &mut images).unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(text(&graph, "1", "voice"), "graph_2.wav");
    assert_eq!(text(&graph, "2", "text"), "https://example.com");
}

#[test]
fn what_is_wrong_with_it_is_told_with_node_and_input() {
    for (class, input, content, words) in [
        (
            "LoadImage",
            "image",
            "data:image/png,xyz",
            "is a data URI that is not base64",
        ),
        (
            "LoadImage",
            "image",
            "ftp://example.com/a.png",
            "has an address of the scheme `ftp`",
        ),
        ("LoadImage", "image", "https://", "is a URL that cannot be read"),
        ("LoadImage", "image", &PIXEL[..80], "is cut off"),
        (
            "LoadAudio",
            "audio",
            "data:audio/wav;base64,aGVsbG8gd29ybGQ=",
            "it begins with \"hello wo\"",
        ),
        (
            "LoadVideo",
            "file",
            "data:application/pdf;base64,JVBERi0xLjc=",
            "as application/pdf does",
        ),
        (
            "LoadLatent",
            "latent",
            "data:;base64,QAAAAAAAAAB7Il9fbWV0YWRhdGFfXyI6e319",
            "is a file of weights",
        ),
    ] {
        let told = taken(&mut graph(&[(class, input, content)])).unwrap_err();
        let begin = format!("the file in `{input}` of node 1 ({class}) ");
        assert!(told.starts_with(&begin) && told.contains(words), "{content}: {told}");
    }
    let told = taken(&mut graph(&[(
        "LoadAudio",
        "audio",
        "data:audio/wav;base64,aGVsbG8gd29ybGQ=",
    )]))
    .unwrap_err();
    assert!(told.contains("A graph takes these too: audio (WAV"), "{told}");
    let wrong = ("LoadImage", "image", "data:,");
    let error = take_contents(&mut graph(&[wrong, wrong]), None, &mut Vec::new()).unwrap_err();
    assert_eq!((error.problems.len(), error.field.as_deref()), (2, Some("workflow")));
    assert!(
        error.full_text().contains("of node 2 (LoadImage)"),
        "{}",
        error.full_text()
    );
}

#[test]
fn a_graph_has_no_more_files_than_a_request_may_send() {
    let nodes = |count: usize| {
        let urls: Vec<String> = (0..count)
            .map(|number| format!("https://example.com/{number}.png"))
            .collect();
        let nodes: Vec<_> = urls.iter().map(|url| ("LoadImage", "image", url.as_str())).collect();
        graph(&nodes)
    };
    assert_eq!(taken(&mut nodes(64)).unwrap().len(), 64);
    let told = taken(&mut nodes(65)).unwrap_err();
    assert!(told.contains("more than 64 images and files"), "{told}");
}
