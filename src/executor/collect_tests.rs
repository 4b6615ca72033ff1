//! What counts as a file or a text of a graph, and where a file is found.

use serde_json::json;

use super::*;

fn collected(outputs: Value) -> Collected {
    let Value::Object(outputs) = outputs else {
        unreachable!()
    };
    from_history(&outputs)
}

fn files(collected: &Collected) -> Vec<(&str, FileKind, OutputFolder, String)> {
    let files = collected.files.iter();
    files
        .map(|file| (file.node_id.as_str(), file.kind, file.folder, display_name(file)))
        .collect()
}

fn texts(collected: &Collected) -> Vec<(&str, &str)> {
    let texts = collected.texts.iter();
    texts.map(|text| (text.node_id.as_str(), text.text.as_str())).collect()
}

#[test]
fn every_kind_of_output_is_found() {
    let collected = collected(json!({
        "9": {"images": [{"filename": "a_00001_.png", "subfolder": "x/y", "type": "output"}], "animated": [false]},
        "10": {"gifs": [{"filename": "v.mp4", "subfolder": "", "type": "temp", "format": "video/h264-mp4"}]},
        "11": {"text": ["hello", "world"]},
        "12": {"audio": [{"filename": "s.flac", "subfolder": "audio", "type": "output"}]},
        "13": {"3d": [{"filename": "m.glb", "subfolder": "mesh", "type": "output"}]},
        "14": {"images": [{"filename": "v.webm", "subfolder": "video", "type": "output"}], "animated": [true]},
        "15": {"text": ["{}"], "files": [{"filename": "t.json", "subfolder": "text", "type": "output"}]},
        "16": {"a_images": [{"filename": "c.png", "subfolder": "", "type": "temp"}], "b_images": []},
        "17": {"latents": [{"filename": "l.latent", "subfolder": "latents", "type": "output"}]},
    }));
    let output = OutputFolder::Output;
    assert_eq!(
        files(&collected),
        [
            ("9", FileKind::Image, output, "`x/y/a_00001_.png`".to_owned()),
            ("10", FileKind::Video, OutputFolder::Temp, "`v.mp4`".to_owned()),
            ("12", FileKind::Audio, output, "`audio/s.flac`".to_owned()),
            ("13", FileKind::Model3d, output, "`mesh/m.glb`".to_owned()),
            ("14", FileKind::Video, output, "`video/v.webm`".to_owned()),
            ("15", FileKind::Text, output, "`text/t.json`".to_owned()),
            ("16", FileKind::Image, OutputFolder::Temp, "`c.png`".to_owned()),
            ("17", FileKind::Other, output, "`latents/l.latent`".to_owned()),
        ]
    );
    assert_eq!(texts(&collected), [("11", "hello"), ("11", "world"), ("15", "{}")]);
}

#[test]
fn a_text_that_is_no_list_is_whole() {
    let collected = collected(json!({
        "1": {"text": ["h", "e", "l", "l", "ö"]},
        "2": {"text": "hello"},
        "3": {"text": [["a", "list"], "in a list"]},
        "4": {"text": ["x"]},
        "5": {"dims": [64, 64], "text": []},
    }));
    assert_eq!(
        texts(&collected),
        [
            ("1", "hellö"),
            ("2", "hello"),
            ("3", "a"),
            ("3", "list"),
            ("3", "in a list"),
            ("4", "x")
        ]
    );
}

#[test]
fn a_3d_viewer_names_its_file_by_a_path() {
    let collected = collected(json!({
        "1": {"result": ["mesh/ComfyUI_00001_.glb", {"position": {}}, "temp/bg_1.png"]},
        "2": {"result": ["ComfyUI_00002_.obj", null, null]},
        "3": {"3d": [{"filename": "ComfyUI_00001_.glb", "subfolder": "mesh", "type": "output"}]},
        "4": {"text": ["see mesh.glb"]},
    }));
    assert_eq!(
        files(&collected),
        [
            (
                "1",
                FileKind::Model3d,
                OutputFolder::Output,
                "`mesh/ComfyUI_00001_.glb`".to_owned()
            ),
            (
                "2",
                FileKind::Model3d,
                OutputFolder::Output,
                "`ComfyUI_00002_.obj`".to_owned()
            ),
        ],
        "each file once"
    );
    assert_eq!(texts(&collected), [("4", "see mesh.glb")]);
}

#[test]
fn a_file_that_comfyui_serves_is_found_however_its_node_names_it() {
    let data = tempfile::tempdir().unwrap();
    let folders = Folders {
        output: data.path().join("output"),
        input: data.path().join("input"),
        temp: data.path().join("temp"),
        are_ours: true,
        ..Folders::default()
    };
    for folder in ["output/sub/deep", "output/a\\b", "temp"] {
        std::fs::create_dir_all(data.path().join(folder)).unwrap();
    }
    for path in [
        "output/Qwen\\a.png",
        "output/sub/deep/b.png",
        "output/a\\b/c.png",
        "temp/d.glb",
    ] {
        std::fs::write(data.path().join(path), "x").unwrap();
    }
    std::fs::write(data.path().join("secret.png"), "x").unwrap();
    let absolute = data.path().join("output/sub/deep").display().to_string();
    let file = |filename: &str, subfolder: &str| {
        let mut collected = Collected::default();
        collected.file("9", filename, subfolder, OutputFolder::Output);
        found(&folders, collected.files.remove(0)).map(|file| (file.folder, file.subfolder, file.filename))
    };
    let output =
        |subfolder: &str, filename: &str| Ok((OutputFolder::Output, subfolder.to_owned(), filename.to_owned()));
    assert_eq!(file("Qwen\\a.png", ""), output("", "Qwen\\a.png"));
    assert_eq!(file("Qwen\\a.png", "."), output("", "Qwen\\a.png"));
    assert_eq!(file("c.png", "a\\b"), output("a\\b", "c.png"));
    for subfolder in [
        "sub/deep",
        "./sub//deep/",
        "/sub/deep",
        "sub\\deep",
        "sub/x/../deep",
        absolute.as_str(),
    ] {
        assert_eq!(file("b.png", subfolder), output("sub/deep", "b.png"), "{subfolder}");
    }
    assert_eq!(file("deep/b.png", "sub"), output("sub/deep", "b.png"));
    assert_eq!(file("sub\\deep\\b.png", ""), output("sub/deep", "b.png"));
    assert_eq!(
        file("d.glb", ""),
        Ok((OutputFolder::Temp, String::new(), "d.glb".to_owned()))
    );
    assert_eq!(file("secret.png", ".."), Err(Missing::Outside));
    assert_eq!(file("../secret.png", ""), Err(Missing::Outside));
    assert_eq!(file("deep", "sub"), Err(Missing::Gone), "a folder is no file");
    assert_eq!(file("none.png", "sub"), Err(Missing::Gone));
}

#[test]
fn outputs_in_other_shapes_are_taken_as_far_as_they_name_files() {
    let collected = collected(json!({
        "1": null,
        "2": [{"filename": "a.png", "subfolder": "", "type": "output"}, null, 5],
        "3": [{"images": [{"filename": "b.png", "subfolder": "", "type": "temp"}]}, {"text": ["hello"]}],
        "4": {"3d": {"mesh": {"filename": "m.glb", "subfolder": "", "type": "output"}, "camera": {"x": 1}}},
        "5": {"filename": "c.png", "type": "output"},
        "6": {"camera_info": [{"position": {"x": 1, "filename": 3}}], "seed": [5], "done": true, "nothing": null},
        "7": "text",
    }));
    let (output, temp) = (OutputFolder::Output, OutputFolder::Temp);
    assert_eq!(
        files(&collected),
        [
            ("2", FileKind::Image, output, "`a.png`".to_owned()),
            ("3", FileKind::Image, temp, "`b.png`".to_owned()),
            ("4", FileKind::Model3d, output, "`m.glb`".to_owned()),
            ("5", FileKind::Image, output, "`c.png`".to_owned()),
        ]
    );
    assert_eq!(texts(&collected), [("3", "hello")]);
}
