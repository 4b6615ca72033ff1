//! Each API as its documentation shows it with curl: the commands themselves, but for the address, the pictures given and
//! made, and fewer steps.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::Value;

use crate::images::serve;
use crate::support::{Worker, shared, text, until};

/// Runs a command line; gives what it prints.
async fn shell(command: &str) -> Vec<u8> {
    let mut bash = tokio::process::Command::new("bash");
    // A proxy of the machine has no business here.
    bash.args([
        "-euc",
        &format!("curl() {{ command curl --silent --show-error --noproxy '*' \"$@\"; }}\n{command}"),
    ]);
    let done = bash.kill_on_drop(true).output().await.expect("bash runs");
    assert!(
        done.status.success(),
        "{command}\n{}\nif curl is missing: apt-get install -y curl",
        String::from_utf8_lossy(&done.stderr)
    );
    done.stdout
}

async fn json(command: &str) -> Value {
    let printed = shell(command).await;
    serde_json::from_slice(&printed)
        .unwrap_or_else(|error| panic!("{command}\n{error}\n{}", String::from_utf8_lossy(&printed)))
}

fn png(colour: [u8; 3]) -> Vec<u8> {
    let mut content = std::io::Cursor::new(Vec::new());
    let picture = RgbImage::from_pixel(64, 64, Rgb(colour));
    picture.write_to(&mut content, ImageFormat::Png).expect("a PNG");
    content.into_inner()
}

fn size(content: &[u8]) -> (u32, u32) {
    let picture = image::load_from_memory(content).expect("a picture");
    (picture.width(), picture.height())
}

#[tokio::test]
async fn runsync_with_the_example_request() {
    let worker = shared().await;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/test_input.json");
    let url = &worker.url;
    let answer = json(&format!(
        r#"curl -X POST {url}/runsync \
  -H "Content-Type: application/json" \
  -d @{example}"#
    ))
    .await;
    assert_eq!(answer["status"], "COMPLETED", "{answer:#}");
    let image = &answer["output"]["images"][0];
    assert_eq!(image["type"], "output");
    let (filename, subfolder) = (text(image, "filename"), text(image, "subfolder"));
    assert!(answer["execution_time"].as_f64().is_some_and(|seconds| seconds > 0.0));
    let file = shell(&format!(
        "curl '{url}/view?filename={filename}&subfolder={subfolder}&type=output'"
    ))
    .await;
    assert_eq!(size(&file), (1328, 1328));
}

#[tokio::test]
async fn openai_images_with_a_data_uri() {
    let key = [("API_KEY", "a-key-of-the-tests")];
    let worker = Worker::beside_shared(&key).await;
    let (url, image) = (&worker.url, STANDARD.encode(png([0, 0, 200])));
    let answer = json(&format!(
        r#"MODELVERSE_API_KEY=a-key-of-the-tests
curl --location '{url}/v1/images/generations' \
--header "Authorization: Bearer $MODELVERSE_API_KEY" \
--header 'Content-Type: application/json' \
--data '{{
    "model": "Qwen/Qwen-Image-Edit",
    "prompt": "Convert to quick pencil sketch",
    "image": "data:image/png;base64,{image}",
    "size": "512x512",
    "steps": 1
}}'"#
    ))
    .await;
    assert!(answer["created"].is_u64() && answer["usage"]["input_tokens_details"].is_object());
    let link = text(&answer["data"][0], "url");
    assert_eq!(size(&shell(&format!("curl '{link}'")).await), (512, 512));
}

#[tokio::test]
async fn kie_tasks() {
    let worker = Worker::beside_shared(&[]).await;
    let url = &worker.url;
    let accepted = json(&format!(
        r#"curl -X POST {url}/api/v1/qwen/generate -H 'Authorization: Bearer YOUR_API_KEY' -H 'Content-Type: application/json' -d '{{
  "prompt": "A dragon flying over ancient mountains, digital art style",
  "image_size": "landscape_16_9",
  "num_inference_steps": 30,
  "guidance_scale": 7.5,
  "acceleration_level": "high"
}}'"#
    ))
    .await;
    assert_eq!((&accepted["code"], &accepted["msg"]), (&200.into(), &"success".into()));
    let task = text(&accepted["data"], "taskId").to_owned();
    let mut record = Value::Null;
    until("the task is over", async || {
        record = json(&format!("curl '{url}/api/v1/qwen/record-info?taskId={task}'")).await;
        record["successFlag"] != 0
    })
    .await;
    assert_eq!(
        (&record["successFlag"], text(&record, "taskId")),
        (&1.into(), task.as_str()),
        "{record:#}"
    );
    assert!(text(&record, "completeTime") >= text(&record, "createTime"));
    let image = text(&record, "imageUrl");
    assert_eq!(size(&shell(&format!("curl '{image}'")).await), (1664, 928));
}

#[tokio::test]
async fn edit_plus() {
    let files = serve(vec![
        ("person.jpg", png([200, 0, 0])),
        ("dog.jpg", png([0, 200, 0])),
        ("living_room.jpg", png([0, 0, 200])),
    ])
    .await;
    let vars = [("ALLOW_PRIVATE_URLS", "127.0.0.1")];
    let worker = Worker::beside_shared(&vars).await;
    let url = &worker.edit_url;
    let accepted = json(&format!(
        r#"curl -X POST "{url}/edit-image" \
  -H "Content-Type: application/json" \
  -d '{{
    "image1_url": "{files}/person.jpg",
    "image2_url": "{files}/dog.jpg",
    "image3_url": "{files}/living_room.jpg",
    "prompt": "Place the person from image 1 sitting in the living room from image 3, with the dog from image 2 lying on the floor nearby",
    "negative_prompt": "blurry, distorted, unnatural",
    "steps": 1,
    "cfg": 4.0,
    "megapixels": 0.1
  }}'"#
    ))
    .await;
    let job = text(&accepted, "job_id").to_owned();
    let mut status = Value::Null;
    until("the job is over", async || {
        status = json(&format!(r#"curl "{url}/status/{job}""#)).await;
        ["completed", "error"].contains(&text(&status, "status"))
    })
    .await;
    assert_eq!(
        (text(&status, "status"), &status["progress"]),
        ("completed", &100.into()),
        "{status:#}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("edited_image.png");
    shell(&format!(r#"curl "{url}/download/{job}" -o {}"#, path.display())).await;
    assert_eq!(size(&std::fs::read(path).expect("a file")), (320, 320));
}
