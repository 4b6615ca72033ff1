//! The forms in which results go back: formats, limits, and every kind of output.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::ImageFormat;
use serde_json::{Value, json};

use crate::support::binary::binary;
use crate::support::{Answer, Worker, fresh_data, graph, shared, text};

fn noise(side: u32, seed: u32) -> Value {
    graph("Noise", json!({"side": side, "count": 1, "seed": seed}))
}

fn warnings(answer: &Answer) -> String {
    answer.body["output"]["warnings"].to_string()
}

fn ending(file: &Value) -> &str {
    text(file, "filename").rsplit('.').next().unwrap_or_default()
}

/// Format, width and height.
fn looks(content: &[u8]) -> (ImageFormat, u32, u32) {
    let format = image::guess_format(content).expect("an image");
    let image = image::load_from_memory(content).expect("a whole image");
    (format, image.width(), image.height())
}

fn data(file: &Value) -> Vec<u8> {
    assert_eq!(text(file, "type"), "base64", "{file}");
    STANDARD.decode(text(file, "data")).expect("base64")
}

#[tokio::test]
async fn the_format_that_is_asked_for_is_what_view_serves() {
    let worker = shared().await;
    for (wish, format, name) in [
        ("webp", ImageFormat::WebP, "webp"),
        ("jpeg", ImageFormat::Jpeg, "jpg"),
        ("png", ImageFormat::Png, "png"),
    ] {
        let input = json!({"workflow": noise(48, 8_001), "output_format": wish, "quality": 80});
        let answer = worker.run(input).await.completed();
        assert_eq!(ending(&answer.images()[0]), name);
        assert_eq!(looks(&worker.first_image(&answer).await), (format, 48, 48));
    }
}

#[tokio::test]
async fn a_file_says_nothing_about_its_graph() {
    let worker = shared().await;
    for wish in ["png", "webp"] {
        let input = json!({"workflow": noise(48, 8_007), "output_format": wish});
        let answer = worker.run(input).await.completed();
        let content = worker.first_image(&answer).await;
        let class = b"SaveImage";
        assert!(!content.windows(class.len()).any(|part| part == class), "{wish}");
    }
}

#[tokio::test]
async fn quality_counts_and_is_checked() {
    let worker = shared().await;
    let mut sizes = Vec::new();
    for quality in [95, 30] {
        let input = json!({"workflow": noise(96, 8_002), "output_format": "webp", "quality": quality});
        let answer = worker.run(input).await.completed();
        sizes.push(worker.first_image(&answer).await.len());
    }
    assert!(sizes[1] * 2 < sizes[0], "{sizes:?}");
    let input = json!({"workflow": noise(96, 8_002), "output_format": "tiff", "quality": 101});
    let answer = worker.run(input).await;
    assert_eq!(answer.status, 400);
    assert!(
        answer.error().contains("output_format") && answer.error().contains("quality"),
        "{}",
        answer.error()
    );
}

#[tokio::test]
async fn every_kind_of_output_is_named_once_under_files() {
    let worker = shared().await;
    let image = json!(["1", 0]);
    let workflow = json!({
        "1": {"class_type": "Noise", "inputs": {"side": 32, "count": 3, "seed": 8_000}},
        "2": {"class_type": "EmptyAudio", "inputs": {"duration": 0.2, "sample_rate": 44100, "channels": 2}},
        "10": {"class_type": "SaveImage", "inputs": {"images": image, "filename_prefix": "kinds/still"}},
        "11": {"class_type": "SaveAnimatedWEBP", "inputs": {
            "images": image, "filename_prefix": "kinds/anim", "fps": 6.0, "lossless": true, "quality": 80, "method": "default"}},
        "12": {"class_type": "SaveAnimatedPNG", "inputs": {
            "images": image, "filename_prefix": "kinds/apng", "fps": 6.0, "compress_level": 4}},
        "13": {"class_type": "SaveWEBM", "inputs": {
            "images": image, "filename_prefix": "kinds/video", "codec": "vp9", "fps": 6.0, "crf": 32.0}},
        "14": {"class_type": "SaveAudio", "inputs": {"audio": ["2", 0], "filename_prefix": "kinds/sound"}},
        "15": {"class_type": "SaveFile", "inputs": {"text": "words", "filename_prefix": "kinds/note", "kind": "files"}},
        "16": {"class_type": "ShowText", "inputs": {"text": "shown"}},
        "17": {"class_type": "ShowWholeText", "inputs": {"text": "whole"}},
    });
    let input = json!({"workflow": workflow, "return_images_as": "base64", "output_format": "jpeg"});
    let answer = worker.run(input).await.completed();
    let output = &answer.body["output"];
    let mut found: Vec<_> = output["files"]
        .as_array()
        .expect("files")
        .iter()
        .map(|file| {
            let (kind, name) = (text(file, "kind"), text(file, "filename"));
            assert_eq!((text(file, "subfolder"), text(file, "type")), ("kinds", "base64"));
            assert_eq!(file.get("data").is_some(), kind != "image", "{file}");
            let (prefix, ending) = (name.split('_').next(), name.rsplit('.').next());
            (
                text(file, "node_id"),
                kind,
                prefix.expect("a name"),
                ending.expect("an ending"),
            )
        })
        .collect();
    found.sort_unstable();
    let expected = [
        ("10", "image", "still", "jpg"),
        ("10", "image", "still", "jpg"),
        ("10", "image", "still", "jpg"),
        ("11", "image", "anim", "webp"),
        ("12", "image", "apng", "png"),
        ("13", "video", "video", "webm"),
        ("14", "audio", "sound", "flac"),
        ("15", "text", "note", "txt"),
    ];
    assert_eq!(found, expected);
    assert_eq!(answer.images().len(), 5);
    for image in answer.images() {
        data(image);
    }
    let mut texts: Vec<_> = output["texts"]
        .as_array()
        .expect("texts")
        .iter()
        .map(|told| text(told, "text"))
        .collect();
    texts.sort_unstable();
    assert_eq!(texts, ["shown", "whole"]);
    let warnings = warnings(&answer);
    assert_eq!(warnings.matches("is animated").count(), 2, "{warnings}");
}

#[tokio::test]
async fn a_graph_of_texts_and_a_graph_of_nothing_are_answered_as_v5_does() {
    let worker = shared().await;
    let workflow = json!({"1": {"class_type": "ShowText", "inputs": {"text": "alone"}}});
    let output = worker.run(json!({"workflow": workflow})).await.completed().body["output"].take();
    assert_eq!(output["texts"], json!([{"node_id": "1", "text": "alone"}]));
    assert_eq!(
        (&output["status"], &output["images"]),
        (&json!("success_no_images"), &json!([]))
    );
    let workflow = json!({"1": {"class_type": "Nothing", "inputs": {}}});
    let mut output = worker.run(json!({"workflow": workflow})).await.completed().body["output"].take();
    // That the demo weights are in use is all that there is to say.
    output.as_object_mut().expect("an output").remove("warnings");
    assert_eq!(output, json!({"status": "success_no_images", "images": []}));
}

#[tokio::test]
async fn images_are_made_smaller_when_the_answer_is_limited() {
    let worker = shared().await;
    let comfy = worker.comfy_url().await;
    let limited = Worker::attached(&comfy, &[("RESULT_MAX_BYTES", "60000")]).await;
    let input = json!({"workflow": noise(160, 8_003), "return_images_as": "base64"});
    let whole = worker.run(input.clone()).await.completed();
    let answer = limited.run(input).await.completed();
    let length = answer.body.to_string().len();
    assert!(whole.body.to_string().len() > 60_000 && length <= 60_000, "{length}");
    let image = &answer.images()[0];
    assert_eq!(ending(image), "webp");
    assert_eq!(looks(&data(image)), (ImageFormat::WebP, 160, 160));
    let warnings = warnings(&answer);
    assert!(
        warnings.contains("quality") && warnings.contains("RESULT_MAX_BYTES"),
        "{warnings}"
    );
    // The answer is made anew each time it is asked for, and is always the same.
    let again = limited.ask(&format!("/status/{}", text(&answer.body, "id"))).await;
    assert_eq!(again.body["output"], answer.body["output"]);
}

#[tokio::test]
async fn a_result_that_cannot_fit_fails_with_the_reason() {
    let worker = shared().await;
    let limited = Worker::attached(&worker.comfy_url().await, &[("RESULT_MAX_BYTES", "10000")]).await;
    let words = "words ".repeat(4_000);
    let workflow = json!({
        "2": {"class_type": "SaveFile", "inputs": {"text": words, "filename_prefix": "long/note", "kind": "files"}},
    });
    let answer = limited
        .run(json!({"workflow": workflow, "return_images_as": "base64"}))
        .await;
    assert_eq!((answer.status, text(&answer.body, "status")), (500, "FAILED"));
    for word in ["too large", "10 kB", "BUCKET_ENDPOINT_URL", "s3Config"] {
        assert!(answer.error().contains(word), "{word}: {}", answer.error());
    }
}

#[tokio::test]
async fn images_of_a_comfyui_elsewhere_are_made_into_the_format_as_they_are_read() {
    let worker = shared().await;
    let attached = Worker::attached(&worker.comfy_url().await, &[("OUTPUT_FORMAT", "webp")]).await;
    let input = json!({"workflow": noise(48, 8_004), "return_images_as": "base64"});
    let answer = attached.run(input).await.completed();
    assert_eq!(ending(&answer.images()[0]), "webp");
    assert_eq!(looks(&data(&answer.images()[0])), (ImageFormat::WebP, 48, 48));
    let answer = attached.run(json!({"workflow": noise(48, 8_004)})).await.completed();
    assert!(warnings(&answer).contains("COMFYUI_URL"), "{}", warnings(&answer));
    assert_eq!(looks(&attached.first_image(&answer).await), (ImageFormat::Png, 48, 48));
}

#[tokio::test]
async fn an_s3_url_without_a_bucket_becomes_base64_with_a_warning() {
    let worker = shared().await;
    let input = json!({"workflow": noise(16, 8_005), "return_images_as": "s3_url"});
    let answer = worker.run(input).await.completed();
    assert_eq!(looks(&data(&answer.images()[0])), (ImageFormat::Png, 16, 16));
    assert!(
        warnings(&answer).contains("BUCKET_ENDPOINT_URL"),
        "{}",
        warnings(&answer)
    );
}

#[tokio::test]
async fn run_writes_an_image_of_a_comfyui_elsewhere_in_its_format() {
    let worker = shared().await;
    let (data, mut vars) = fresh_data();
    vars.insert("COMFYUI_URL".to_owned(), worker.comfy_url().await);
    vars.insert("OUTPUT_FORMAT".to_owned(), "webp".to_owned());
    let (file, out) = (data.path().join("job.json"), data.path().join("out"));
    let input = json!({"input": {"workflow": noise(24, 8_006), "return_images_as": "base64"}});
    std::fs::write(&file, input.to_string()).expect("a file");
    let done = binary(&vars)
        .arg("run")
        .arg(&file)
        .arg("--out")
        .arg(&out)
        .output()
        .await;
    let done = done.expect("the binary runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let answer: Value = serde_json::from_slice(&done.stdout).expect("an answer");
    let name = text(&answer["output"]["images"][0], "filename");
    let content = std::fs::read(out.join("test").join(name)).expect("the file that the answer names");
    assert_eq!(looks(&content), (ImageFormat::WebP, 24, 24));
}
