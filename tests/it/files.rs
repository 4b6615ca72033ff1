//! Files of users and files of jobs: each of ours goes in its time however its job ended, and none of theirs is touched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use image::ImageFormat;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, PATIENCE, Worker, fresh_data, shared, text, until};

/// A picture saved under the prefix.
fn saved(prefix: &str, seed: u32) -> Value {
    json!({
        "1": {"class_type": "Noise", "inputs": {"side": 24, "count": 1, "seed": seed}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    })
}

/// The same, and then this node behind the picture, which is saved again behind it.
fn saved_then(prefix: &str, seed: u32, class: &str, mut inputs: Value) -> Value {
    let mut workflow = saved(prefix, seed);
    inputs["image"] = json!(["1", 0]);
    workflow["3"] = json!({"class_type": class, "inputs": inputs});
    workflow["4"] =
        json!({"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": format!("{prefix}-late")}});
    workflow
}

fn named(filename: &str, subfolder: &str, folder: &str) -> Value {
    json!({"1": {"class_type": "NameFile", "inputs": {"filename": filename, "subfolder": subfolder, "type": folder}}})
}

fn write(path: &Path) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let picture = image::RgbImage::from_pixel(8, 8, image::Rgb([1, 2, 3]));
    picture.save_with_format(path, ImageFormat::Png).expect("a file");
}

/// Everything under a folder, folders included.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        all.push(entry.path());
        if entry.path().is_dir() {
            all.extend(listed(&entry.path()));
        }
    }
    all
}

/// The one picture of an answer, which `/view` has under the names that the answer tells.
async fn one_picture(worker: &Worker, answer: &Answer) -> Value {
    let [image] = answer.images() else {
        panic!("not one picture: {:#}", answer.body)
    };
    let content = worker.first_image(answer).await;
    assert_eq!(image::guess_format(&content).expect("an image"), ImageFormat::Png);
    image.clone()
}

/// One worker for all of it, as each has to start a ComfyUI.
#[tokio::test]
async fn files_of_jobs_go_however_the_job_ended_and_files_of_users_stay() {
    // The installation is there when the shared worker is ready.
    drop(shared().await);
    let (data, mut vars) = fresh_data();
    let base = data.path().join("base");
    let (output, input) = (base.join("output"), base.join("input"));
    let users = [
        output.join("mine/keep.png"),
        output.join("keep.png"),
        input.join("keep.png"),
    ];
    for path in &users {
        write(path);
    }
    // What a worker that was killed left.
    let left = input.join(format!(
        "qwen-image-worker/019ac000-0000-7000-8000-000000000000-{}",
        "a".repeat(32)
    ));
    write(&left.join("cat.png"));
    vars.insert("RESULT_TTL".to_owned(), "5".to_owned());
    vars.insert("JOB_RETRIES".to_owned(), "0".to_owned());
    let worker = Worker::start(vars).await;
    worker.ready().await;
    assert!(!left.exists(), "it is swept at the start");

    // A backslash is a letter of the name on this system.
    let answer = worker
        .run(json!({"workflow": saved("Qwen\\img", 9_101)}))
        .await
        .completed();
    assert_eq!(
        text(&one_picture(&worker, &answer).await, "filename"),
        "Qwen\\img_00001_.png"
    );

    // What lies in the output folder is returned however its node names it, and is not ours.
    let absolute = output.join("mine").display().to_string();
    for (filename, subfolder, expected) in [
        ("keep.png", ".", ""),
        ("keep.png", "./mine/", "mine"),
        ("keep.png", absolute.as_str(), "mine"),
        ("mine/keep.png", "", "mine"),
    ] {
        let answer = worker
            .run(json!({"workflow": named(filename, subfolder, "output")}))
            .await
            .completed();
        let image = one_picture(&worker, &answer).await;
        assert_eq!(
            (text(&image, "filename"), text(&image, "subfolder")),
            ("keep.png", expected)
        );
    }
    let answer = worker
        .run(json!({"workflow": named("keep.png", "", "input")}))
        .await
        .completed();
    assert_eq!(text(&one_picture(&worker, &answer).await, "type"), "input");

    // ComfyUI's own node for clients of its websocket.
    let pictures = json!({
        "1": {"class_type": "Noise", "inputs": {"side": 24, "count": 3, "seed": 9_102}},
        "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
    });
    let answer = worker.run(json!({"workflow": pictures})).await.completed();
    assert_eq!(answer.images().len(), 3, "{:#}", answer.body);
    let size = imagesize::blob_size(&worker.first_image(&answer).await).expect("a picture");
    assert_eq!((size.width, size.height), (24, 24));

    // A job that fails behind its first picture, one that is cancelled there, and one whose ComfyUI dies there.
    let failed = saved_then("failed/a", 9_103, "Raise", json!({"message": "behind the picture"}));
    let answer = worker.run(json!({"workflow": failed})).await;
    assert!(answer.error().contains("behind the picture"), "{:#}", answer.body);
    assert!(output.join("failed/a_00001_.png").exists());
    let slow = json!({"steps": 10_000, "ms_per_step": 50, "preview": false, "seed": 9_104});
    let id = worker
        .accept(saved_then("cancelled/b", 9_104, "SlowProgress", slow))
        .await;
    let cancelled = output.join("cancelled/b_00001_.png");
    until("its picture is there", async || cancelled.exists()).await;
    worker.send(Method::POST, &format!("/cancel/{id}"), "").await;
    let died = saved_then("died/c", 9_105, "HardExit", json!({"code": 3}));
    let answer = worker.run(json!({"workflow": died})).await;
    assert_eq!(text(&answer.body, "status"), "FAILED", "{:#}", answer.body);
    assert!(output.join("died/c_00001_.png").exists());

    let mut expected: Vec<_> = users[..2].to_vec();
    expected.push(output.join("mine"));
    expected.sort();
    let mut there = Vec::new();
    let gone = tokio::time::timeout(PATIENCE, async {
        loop {
            there = listed(&output);
            there.sort();
            if there.len() <= expected.len() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let _ = gone.await;
    assert_eq!(there, expected);
    assert!(users.iter().all(|path| path.exists()));
    drop(data);
}

#[tokio::test]
async fn a_comfyui_elsewhere_keeps_the_pictures_that_come_over_its_websocket() {
    let worker = Worker::beside_shared(&[]).await;
    let pictures = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": 255}},
        "9": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
    });
    let answer = worker.run(json!({"workflow": pictures})).await.completed();
    let image = one_picture(&worker, &answer).await;
    assert_eq!(text(&image, "type"), "output");
    let answer = worker
        .run(json!({"workflow": saved("Qwen\\img", 9_111)}))
        .await
        .completed();
    assert!(text(&one_picture(&worker, &answer).await, "filename").starts_with("Qwen\\img_"));
}

#[tokio::test]
async fn a_bucket_whose_name_leads_inside_the_network_is_refused_at_once() {
    let worker = shared().await;
    let body = json!({
        "input": {"workflow": saved("never", 9_121)},
        "s3Config": {
            "accessId": "AKIA4711", "accessSecret": "secret-0815", "bucketName": "results",
            "endpointUrl": "http://localhost:9999",
        },
    });
    for path in ["/run", "/runsync"] {
        let answer = worker.send(Method::POST, path, body.to_string()).await;
        assert_eq!(answer.status, 400, "{path}: {:#}", answer.body);
        assert!(answer.error().contains("s3Config"), "{path}: {:#}", answer.body);
    }
}
