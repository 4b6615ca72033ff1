//! Files as ComfyUI's nodes, the Video Helper Suite and others write them, whole and damaged.

use serde_json::{Value, json};

use super::*;

/// Made by the code of these nodes in ComfyUI 0.30.0, with Pillow and `PyAV`; those of the Video Helper Suite by its way of
/// writing a comment.
const FILES: &[(&str, &[u8])] = &[
    (
        "SaveImage",
        include_bytes!("../../../tests/data/embedded/save_image.png"),
    ),
    (
        "SaveAnimatedPNG",
        include_bytes!("../../../tests/data/embedded/save_animated.png"),
    ),
    (
        "zTXt and iTXt",
        include_bytes!("../../../tests/data/embedded/compressed.png"),
    ),
    (
        "SaveAnimatedWEBP",
        include_bytes!("../../../tests/data/embedded/save_animated.webp"),
    ),
    (
        "SaveVideo",
        include_bytes!("../../../tests/data/embedded/save_video.mp4"),
    ),
    (
        "SaveWEBM",
        include_bytes!("../../../tests/data/embedded/save_webm.webm"),
    ),
    ("VHS, MP4", include_bytes!("../../../tests/data/embedded/vhs.mp4")),
    ("VHS, WebM", include_bytes!("../../../tests/data/embedded/vhs.webm")),
];

/// Without a text.
fn plain_png() -> Vec<u8> {
    let mut content = std::io::Cursor::new(Vec::new());
    let picture = image::DynamicImage::new_luma8(2, 2);
    picture.write_to(&mut content, image::ImageFormat::Png).unwrap();
    content.into_inner()
}

/// With these chunks behind the first one.
fn png(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut content = plain_png();
    let rest = content.split_off(33);
    for (kind, data) in chunks {
        content.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        content.extend(*kind);
        content.extend(data);
        content.extend([0; 4]);
    }
    content.extend(rest);
    content
}

fn text(name: &str, text: &str) -> (&'static [u8; 4], Vec<u8>) {
    (b"tEXt", [name.as_bytes(), b"\0", text.as_bytes()].concat())
}

fn graph() -> Value {
    json!({"1": {"class_type": "A", "inputs": {}}})
}

fn saved() -> Value {
    json!({"nodes": [{"id": 1, "type": "A"}], "links": []})
}

#[test]
fn every_kind_of_file_is_read() {
    for (name, content) in FILES {
        assert!(Embedded::is_file(content), "{name}");
        let embedded = Embedded::read(content).unwrap_or_else(|error| panic!("{name}: {error}"));
        let graph = embedded.graph.clone().unwrap_or_else(|| panic!("{name}: a graph"));
        assert_eq!(graph["2"]["inputs"]["filename_prefix"], "für", "{name}");
        let saved = embedded.saved.clone().unwrap_or_else(|| panic!("{name}: a workflow"));
        assert_eq!(saved["nodes"][1]["widgets_values"][0], "für", "{name}");
        assert!(
            Graph::from_value(embedded.clone().into_workflow(false)).is_ok(),
            "{name}"
        );
        assert_eq!(embedded.into_workflow(true), saved, "{name}");
    }
}

#[test]
fn a_damaged_file_is_read_as_far_as_it_goes_or_refused() {
    for (name, content) in FILES {
        for end in 0..content.len() {
            let _ = Embedded::read(&content[..end]);
        }
        let mut damaged = content.to_vec();
        for at in 0..damaged.len() {
            for byte in [0x00, 0xff, damaged[at] ^ 0x80, damaged[at].wrapping_add(1)] {
                let before = std::mem::replace(&mut damaged[at], byte);
                // What is left of it, or that there is none.
                if let Ok(embedded) = Embedded::read(&damaged) {
                    assert!(embedded.graph.is_some() || embedded.saved.is_some(), "{name} at {at}");
                }
                damaged[at] = before;
            }
            // Lengths that lead beyond everything.
            if at + 4 <= damaged.len() {
                let before: [u8; 4] = damaged[at..at + 4].try_into().unwrap();
                damaged[at..at + 4].fill(0xff);
                let _ = Embedded::read(&damaged);
                damaged[at..at + 4].copy_from_slice(&before);
            }
        }
    }
}

#[test]
fn a_file_without_a_workflow_is_told_so() {
    let error = |content: &[u8]| Embedded::read(content).unwrap_err().full_text();
    for words in ["The PNG holds no workflow.", "--disable-metadata"] {
        assert!(error(&plain_png()).contains(words), "{}", error(&plain_png()));
    }
    let tool = png(&[text("parameters", "a fox\nSteps: 20"), text("prompt", "a fox")]);
    assert!(error(&tool).contains("its `prompt` is no JSON"), "{}", error(&tool));
    let other = png(&[text("prompt", r#"{"text": "a fox"}"#)]);
    assert!(error(&other).contains("holds no workflow"));
    for content in [&b""[..], b"{}", b"GIF89a", b"RIFF\0\0\0\0WAVE"] {
        assert!(!Embedded::is_file(content));
        assert!(Embedded::read(content).is_err());
    }
    for content in [
        &b"\x89PNG\r\n\x1a\n"[..],
        b"RIFF\0\0\0\0WEBP",
        b"\0\0\0\x10ftyp",
        b"\x1a\x45\xdf\xa3",
    ] {
        assert!(Embedded::is_file(content));
        assert!(error(content).contains("holds no workflow"), "{content:?}");
    }
}

#[test]
fn one_of_the_two_is_enough_and_the_first_of_each_counts() {
    let read = |chunks: &[(&[u8; 4], Vec<u8>)]| Embedded::read(&png(chunks)).unwrap();
    let one = read(&[text("Workflow", &saved().to_string())]);
    assert_eq!((one.graph.clone(), one.into_workflow(false)), (None, saved()));
    let one = read(&[text("prompt", &graph().to_string())]);
    assert_eq!((one.saved.clone(), one.into_workflow(true)), (None, graph()));
    // What another tool calls a prompt stands in the way of nothing.
    let two = read(&[
        text("prompt", "a fox"),
        text("workflow", &saved().to_string()),
        text("workflow", &json!({"nodes": []}).to_string()),
    ]);
    assert_eq!(
        two,
        Embedded {
            graph: None,
            saved: Some(saved())
        }
    );
}

#[test]
fn no_text_grows_beyond_what_is_read() {
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packed, &vec![b'{'; LONGEST_TEXT + 1]).unwrap();
    let bomb = [b"workflow\0\0".to_vec(), packed.finish().unwrap()].concat();
    assert!(Embedded::read(&png(&[(b"zTXt", bomb.clone())])).is_err());
    // However many there are, the rest of the file is not unpacked for ever.
    let mut texts = Texts::new();
    let bombs: Vec<(&[u8; 4], Vec<u8>)> = (0..20).map(|_| (b"zTXt", bomb.clone())).collect();
    super::png::read(&png(&bombs), &mut texts);
    assert_eq!((texts.bytes_left, texts.found.len()), (0, 0));
}

#[test]
fn a_text_that_is_pointed_at_again_and_again_is_kept_so_often_as_there_is_room() {
    let mut texts = Texts::new();
    let long = vec![b' '; LONGEST_TEXT];
    (0..20).for_each(|_| texts.add("Workflow", &long));
    assert_eq!((texts.bytes_left, texts.found.len()), (0, MOST_BYTES / LONGEST_TEXT));
}
