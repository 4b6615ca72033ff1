//! Files of every kind that a graph's loaders take: beside the graph, and in it in place of their names.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, Rgb, RgbImage};
use reqwest::Method;
use serde_json::{Value, json};

use crate::images::{assert_close, encoded, serve};
use crate::media::{VIDEO, audio, video, wav};
use crate::support::{Answer, Worker, shared, text};

/// A latent of 8 by 8, as `SaveLatent` writes it.
fn latent() -> Vec<u8> {
    let header = json!({
        "latent_tensor": {"dtype": "F32", "shape": [1, 4, 8, 8], "data_offsets": [0, 1024]},
        "latent_format_version_0": {"dtype": "F32", "shape": [0], "data_offsets": [1024, 1024]},
    })
    .to_string();
    let mut content = (header.len() as u64).to_le_bytes().to_vec();
    content.extend(header.as_bytes());
    content.extend((0..256_u16).flat_map(|number| f32::from(number).to_le_bytes()));
    content
}

/// A GLB with nothing in its scene.
fn glb() -> Vec<u8> {
    let json = br#"{"asset":{"version":"2.0"}} "#;
    let mut content = b"glTF\x02\0\0\0".to_vec();
    let length = u32::try_from(json.len()).expect("short");
    content.extend((20 + length).to_le_bytes());
    content.extend(length.to_le_bytes());
    content.extend(b"JSON");
    content.extend(json);
    content
}

fn data_uri(media_type: &str, content: &[u8]) -> String {
    format!("data:{media_type};base64,{}", STANDARD.encode(content))
}

fn load_latent(name: &str) -> Value {
    json!({
        "1": {"class_type": "LoadLatent", "inputs": {"latent": name}},
        "9": {"class_type": "SaveLatent", "inputs": {"samples": ["1", 0], "filename_prefix": "kinds/latent"}},
    })
}

/// Needs no browser: the view is as it is before anybody looked at it.
fn load_3d(name: &str) -> Value {
    let inputs = json!({"model_file": name, "viewport_state": {}, "width": 64, "height": 64});
    json!({
        "1": {"class_type": "Load3DAdvanced", "inputs": inputs},
        "9": {"class_type": "SaveGLB", "inputs": {"mesh": ["1", 0], "filename_prefix": "kinds/model"}},
    })
}

fn load_image(name: &str) -> Value {
    json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "kinds/image"}},
    })
}

fn save_video(name: &str) -> Value {
    let inputs = json!({"video": ["1", 0], "filename_prefix": "kinds/video", "format": "auto", "codec": "auto"});
    json!({
        "1": {"class_type": "LoadVideo", "inputs": {"file": name}},
        "9": {"class_type": "SaveVideo", "inputs": inputs},
    })
}

/// The first file of the answer, by `/view`.
async fn first_file(worker: &Worker, answer: &Answer) -> (String, Vec<u8>) {
    let file = &answer.body["output"]["files"][0];
    let (name, subfolder, folder) = (text(file, "filename"), text(file, "subfolder"), text(file, "type"));
    let path = format!("/view?filename={name}&subfolder={subfolder}&type={folder}");
    let response = worker.get(&path).await;
    assert_eq!(response.status(), 200, "{:#}", answer.body);
    (name.to_owned(), response.bytes().await.expect("a file").to_vec())
}

/// No file came that no node loads.
#[track_caller]
fn assert_all_used(answer: &Answer) {
    let warnings = answer.body["output"]["warnings"].to_string();
    assert!(!warnings.contains("was not used"), "{warnings}");
}

/// The data of a latent: `SaveLatent` may write its header in another way.
fn numbers(latent: &[u8]) -> &[u8] {
    &latent[latent.len() - 1024..]
}

#[tokio::test]
async fn files_of_each_kind_go_to_their_loaders() {
    let worker = shared().await;
    // Each by another field, and in another form.
    let file = STANDARD.encode(wav());
    let input = json!({"workflow": audio("a.wav"), "audios": [{"name": "a.wav", "audio": file}]});
    let answer = worker.run(input).await.completed();
    assert!(
        first_file(&worker, &answer).await.0.contains(".flac"),
        "{:#}",
        answer.body
    );

    let input = json!({"workflow": save_video("video_1"), "videos": [format!("data:video/mp4;base64,{VIDEO}")]});
    let answer = worker.run(input).await.completed();
    assert!(
        first_file(&worker, &answer).await.0.contains(".mp4"),
        "{:#}",
        answer.body
    );

    let input = json!({"workflow": load_latent("l"), "files": {"name": "l", "file": STANDARD.encode(latent())}});
    let answer = worker.run(input).await.completed();
    let (name, content) = first_file(&worker, &answer).await;
    assert!(name.contains(".latent"), "{name}");
    assert_eq!(numbers(&content), numbers(&latent()));

    // Its name has no ending, by which the node goes.
    let input = json!({"workflow": load_3d("chair"), "files": [{"name": "chair", "file": STANDARD.encode(glb())}]});
    let answer = worker.run(input).await.completed();
    let (name, content) = first_file(&worker, &answer).await;
    assert!(name.contains(".glb") && content == glb(), "{name}");
    assert_eq!(answer.body["output"]["files"][0]["kind"], "3d", "{:#}", answer.body);
    assert_all_used(&answer);
}

#[tokio::test]
async fn a_file_in_the_graph_is_taken_in_place_of_its_name() {
    let colour = [20, 200, 90];
    let picture = encoded(&RgbImage::from_pixel(40, 24, Rgb(colour)), ImageFormat::Png);
    let url = serve(vec![
        ("a.png", picture.clone()),
        ("a.wav", wav()),
        ("video", STANDARD.decode(VIDEO).expect("base64")),
        ("model", glb()),
    ])
    .await;
    let worker = Worker::beside_shared(&[("ALLOW_PRIVATE_URLS", "127.0.0.1")]).await;
    for image in [
        format!("{url}/a.png"),
        STANDARD.encode(&picture),
        data_uri("image/png", &picture),
    ] {
        let answer = worker.run(json!({"workflow": load_image(&image)})).await.completed();
        let seen = image::load_from_memory(&worker.first_image(&answer).await)
            .expect("a PNG")
            .to_rgb8();
        assert_eq!(seen.dimensions(), (40, 24));
        assert_close(seen.get_pixel(4, 4).0, colour, &image);
    }
    for sound in [format!("{url}/a.wav"), data_uri("audio/wav", &wav())] {
        let answer = worker.run(json!({"workflow": audio(&sound)})).await.completed();
        assert!(
            first_file(&worker, &answer).await.0.contains(".flac"),
            "{:#}",
            answer.body
        );
        // A node of a pack, of which only ComfyUI's description tells that it takes files.
        let graph = json!({"1": {"class_type": "TellUpload", "inputs": {"voice": sound}}});
        let answer = worker.run(json!({ "workflow": graph })).await.completed();
        let told = text(&answer.body["output"]["texts"][0], "text");
        assert_eq!(told, format!("{} .wav", wav().len()), "{:#}", answer.body);
    }
    let answer = worker
        .run(json!({"workflow": video(&format!("{url}/video"))}))
        .await
        .completed();
    assert_eq!(answer.images().len(), 4, "{:#}", answer.body);
    let latent_here = data_uri("application/octet-stream", &latent());
    let answer = worker
        .run(json!({"workflow": load_latent(&latent_here)}))
        .await
        .completed();
    assert_eq!(numbers(&first_file(&worker, &answer).await.1), numbers(&latent()));
    for model in [format!("{url}/model"), data_uri("model/gltf-binary", &glb())] {
        let answer = worker.run(json!({"workflow": load_3d(&model)})).await.completed();
        let (name, content) = first_file(&worker, &answer).await;
        assert!(name.contains(".glb") && content == glb(), "{name}");
    }
}

#[tokio::test]
async fn the_view_of_a_3d_loader_may_hold_its_pictures() {
    let worker = shared().await;
    let colour = [200, 30, 30];
    let picture = data_uri(
        "image/png",
        &encoded(&RgbImage::from_pixel(32, 32, Rgb(colour)), ImageFormat::Png),
    );
    let view = json!({"image": picture, "mask": picture, "normal": "normal.png", "recording": "", "camera_info": {}});
    let inputs = json!({"model_file": data_uri("model/gltf-binary", &glb()), "image": view, "width": 32, "height": 32});
    let graph = json!({
        "1": {"class_type": "Load3D", "inputs": inputs},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "kinds/view"}},
    });
    let input = json!({"workflow": graph, "images": [{"name": "normal.png", "image": picture}]});
    let answer = worker.run(input).await.completed();
    let seen = image::load_from_memory(&worker.first_image(&answer).await)
        .expect("a PNG")
        .to_rgb8();
    assert_close(seen.get_pixel(4, 4).0, colour, "the view");
    assert_all_used(&answer);
}

#[tokio::test]
async fn what_no_loader_takes_is_refused_with_its_place() {
    let url = serve(vec![
        ("page", b"<!DOCTYPE html><html></html>".to_vec()),
        ("cut.glb", glb()[..30].to_vec()),
    ])
    .await;
    let worker = Worker::beside_shared(&[("ALLOW_PRIVATE_URLS", "127.0.0.1")]).await;
    let refused = async |input: Value, words: &[&str]| {
        let answer = worker.run(input).await;
        assert_eq!(answer.status, 400, "{:#}", answer.body);
        for word in words {
            assert!(answer.error().contains(word), "`{word}` is not in: {}", answer.error());
        }
    };
    for (graph, words) in [
        (
            audio("data:audio/wav;base64,aGVsbG8gd29ybGQ="),
            [
                "the file in `audio` of node 1 (LoadAudio) is no image",
                "A graph takes these too: audio (WAV",
            ],
        ),
        (
            load_image(&format!("{url}/nowhere.png")),
            [
                "the file in `image` of node 1 (LoadImage) cannot be fetched",
                "its server answered 404",
            ],
        ),
        (
            video(&format!("{url}/page")),
            [
                "the file in `file` of node 1 (LoadVideo) from http",
                "is no image but an HTML page",
            ],
        ),
        (
            load_3d(&format!("{url}/cut.glb")),
            [
                "the file in `model_file` of node 1 (Load3DAdvanced) from",
                "(GLB) that is cut off",
            ],
        ),
        (
            load_latent("data:;base64,QAAAAAAAAAB7Il9fbWV0YWRhdGFfXyI6e319"),
            [
                "the file in `latent` of node 1 (LoadLatent) is a file of weights",
                "belongs into ComfyUI's `models`",
            ],
        ),
        (
            // It is looked at in the job's own turn.
            json!({"1": {"class_type": "TellUpload", "inputs": {"voice": "data:audio/wav;base64,aGVsbG8gd29ybGQ="}}}),
            [
                "the file in `voice` of node 1 (TellUpload) is no image",
                "A graph takes these too",
            ],
        ),
    ] {
        refused(json!({ "workflow": graph }), &words).await;
    }
    let pdf = STANDARD.encode("%PDF-1.7 and so on");
    refused(
        json!({"workflow": audio("a"), "audios": [{"name": "a", "audio": pdf}]}),
        &[
            "audios[0]: the file `a` is no image",
            "as application/pdf does",
            "A graph takes these too",
        ],
    )
    .await;
    let sound = STANDARD.encode(wav());
    refused(
        json!({"prompt": "make it blue", "audios": [sound]}),
        &["audios[0]: the file `audio_1` is an audio file (audio/x-wav) and no picture"],
    )
    .await;
    refused(
        json!({"workflow": audio("a"), "images": [{"name": "a", "image": sound}], "files": [{"name": "a", "file": sound}]}),
        &["files[0]: has the name `a` a second time"],
    )
    .await;
    // Where the worker may not go.
    let guarded = Worker::attached(&worker.comfy_url().await, &[]).await;
    let answer = guarded
        .run(json!({"workflow": load_image(&format!("{url}/a.png"))}))
        .await;
    assert_eq!(answer.status, 400, "{:#}", answer.body);
    let guarded = answer.error();
    assert!(
        guarded.contains("the file in `image` of node 1 (LoadImage) cannot be fetched"),
        "{guarded}"
    );
    assert!(guarded.contains("127.0.0.1 is refused"), "{guarded}");
    // ComfyUI's own API fetches nothing.
    let body = json!({"prompt": load_image(&format!("{url}/a.png"))}).to_string();
    let answer = worker.send(Method::POST, "/prompt", body).await;
    assert_eq!(answer.status, 400, "{:#}", answer.body);
    assert!(
        answer
            .body
            .to_string()
            .contains("is an address, and the input takes a name"),
        "{:#}",
        answer.body
    );
}
