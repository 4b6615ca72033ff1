//! Several ComfyUIs on one queue: one for each GPU, and attached ones.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::binary::Served;
use crate::support::image_server::png;
use crate::support::{Worker, fresh_data, graph, http, json_at, shared, slow, text, until};

/// A driver that tells of three GPUs, which are not there: ComfyUI runs on the CPU.
fn three_gpus(folder: &Path) {
    let answer = "case $1 in --query-gpu=index,uuid,memory.total) \
                  printf '%s\\n' '0, GPU-aa11, 24576' '1, GPU-bb22, 24576' '2, GPU-cc33, 24576';; *) exit 9;; esac";
    let program = folder.join("nvidia-smi");
    std::fs::write(&program, format!("#!/bin/sh\n{answer}\n")).expect("a file");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("our own file");
}

fn with_three_gpus(vars: &mut BTreeMap<String, String>, bin: &Path) {
    three_gpus(bin);
    let path = std::env::var("PATH").unwrap_or_default();
    vars.extend([
        ("PATH".to_owned(), format!("{}:{path}", bin.display())),
        ("GPUS".to_owned(), "0,GPU-bb22,2".to_owned()),
        // Also on a machine that has some.
        ("COMFYUI_ARGS".to_owned(), "--disable-api-nodes --cpu".to_owned()),
    ]);
}

fn engine(health: &Value, index: usize) -> &Value {
    &health["engines"][index]
}

/// The address of a ComfyUI of ours, by its process.
fn address(engine: &Value) -> String {
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", engine["pid"])).expect("it lives");
    let mut words = line.split('\0');
    words.find(|word| *word == "--port").expect("a port of its own");
    format!("http://127.0.0.1:{}", words.next().unwrap_or_default())
}

/// The brightness of a picture, which is its job's seed.
fn brightness(picture: &[u8]) -> u8 {
    let picture = image::load_from_memory(picture).expect("a picture").to_luma8();
    picture.get_pixel(0, 0).0[0]
}

async fn file(url: &str, file: &Value) -> Vec<u8> {
    let (name, subfolder, folder) = (text(file, "filename"), text(file, "subfolder"), text(file, "type"));
    let address = format!("{url}/view?filename={name}&subfolder={subfolder}&type={folder}");
    let answer = http().get(&address).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{address}");
    answer.bytes().await.expect("a file").to_vec()
}

/// What a job of this number is, and how it ends.
fn job(number: u32) -> (Value, &'static str) {
    match number % 6 {
        5 => (graph("Raise", json!({"message": format!("job {number}")})), "FAILED"),
        4 => {
            let preview = json!({"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}});
            let mut graph = slow(1, 50, number);
            graph["2"] = preview;
            (graph, "COMPLETED")
        }
        // All of them write to the same prefix.
        _ => (slow(4, 20 + 20 * (number % 4), number), "COMPLETED"),
    }
}

async fn ended_well(worker: &Served, number: u32, id: &str) {
    let (_, expected) = job(number);
    let end = worker.end(id).await.body;
    assert_eq!(text(&end, "status"), expected, "{number}: {end:#}");
    if expected == "FAILED" {
        assert!(end.to_string().contains(&format!("job {number}")), "{end:#}");
        return;
    }
    let images = end["output"]["images"].as_array().expect("images");
    assert_eq!(images.len(), 1, "{number}: {end:#}");
    let picture = file(&worker.url, &images[0]).await;
    assert_eq!(u32::from(brightness(&picture)), number, "another's picture");
}

#[tokio::test]
async fn three_gpus_share_a_queue_and_go_on_when_one_dies() {
    let shared = shared().await;
    let bin = tempfile::tempdir().expect("a folder");
    let (_data, mut vars) = fresh_data();
    with_three_gpus(&mut vars, bin.path());
    let worker = Served::start(&vars).await;
    let health = async || worker.ask("/health").await.body;
    until("all are ready", async || health().await["workers"]["ready"] == 3).await;
    let before = health().await;
    let names: Vec<&str> = (0..3).map(|index| text(engine(&before, index), "name")).collect();
    assert_eq!(names, ["gpu0", "gpu1", "gpu2"]);
    for (index, uuid) in ["GPU-aa11", "GPU-bb22", "GPU-cc33"].iter().enumerate() {
        let environment = format!("/proc/{}/environ", engine(&before, index)["pid"]);
        let environment = std::fs::read(environment).expect("a process of ours");
        let visible = format!("CUDA_VISIBLE_DEVICES={uuid}");
        assert!(
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == visible.as_bytes())
        );
    }

    // One that is killed has its job run again, and no other.
    let mut ids = Vec::new();
    for number in 0..60 {
        ids.push(worker.accept(json!({"input": {"workflow": job(number).0}})).await);
    }
    until("some are done", async || {
        health().await["jobs"]["completed"].as_u64() > Some(6)
    })
    .await;
    let pid = i32::try_from(engine(&before, 1)["pid"].as_i64().expect("a process")).expect("a process id");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
    for (number, id) in (0..).zip(&ids) {
        ended_well(&worker, number, id).await;
    }
    let after = health().await;
    assert_eq!(
        (&after["jobs"]["completed"], &after["jobs"]["failed"]),
        (&json!(50), &json!(10)),
        "{after:#}"
    );
    for index in [0, 2] {
        assert_eq!(engine(&after, index)["pid"], engine(&before, index)["pid"]);
    }
    until("the one that died is there again", async || {
        let now = health().await;
        engine(&now, 1)["state"] == "ready" && engine(&now, 1)["generation"] == 2
    })
    .await;

    let first = address(engine(&health().await, 0));
    two_attached(&shared, &first, pid_of(engine(&after, 0))).await;
    worker.kill().await;
}

fn pid_of(engine: &Value) -> Pid {
    Pid::from_raw(
        engine["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok())
            .expect("a process"),
    )
}

/// Two ComfyUIs with folders of their own, one of which goes away.
async fn two_attached(shared: &Worker, other: &str, pid: Pid) {
    let first = shared.comfy_url().await;
    let worker = Worker::attached(&format!("{first},{other}"), &[]).await;
    let prompts_at = async |url: &str| {
        let history = json_at(&format!("{}/history", url.trim_end_matches('/'))).await;
        history.as_object().map_or(0, serde_json::Map::len)
    };
    let before = (prompts_at(&first).await, prompts_at(other).await);
    let accept = async |seed: u32| {
        let input = json!({"workflow": slow(4, 50, seed), "return_images_as": "base64"});
        let answer = worker
            .send(reqwest::Method::POST, "/run", json!({"input": input}).to_string())
            .await;
        text(&answer.body, "id").to_owned()
    };
    let picture_of = async |id: &str| {
        let end = worker.end(id).await.completed();
        let data = text(&end.images()[0], "data").to_owned();
        STANDARD.decode(data).expect("base64")
    };
    let mut ids = Vec::new();
    for seed in 100..108 {
        ids.push(accept(seed).await);
    }
    for (seed, id) in (100..).zip(&ids) {
        assert_eq!(brightness(&picture_of(id).await), seed);
    }
    assert!(prompts_at(&first).await > before.0 && prompts_at(other).await > before.1);

    // What is uploaded by ComfyUI's own API is wherever its prompt runs.
    let part = reqwest::multipart::Part::bytes(png(16, 16, 255)).file_name("at_both.png");
    let form = reqwest::multipart::Form::new().part("image", part);
    let upload = http().post(format!("{}/upload/image", worker.url)).multipart(form);
    assert_eq!(upload.send().await.expect("an answer").status(), 200);
    for url in [first.trim_end_matches('/'), other] {
        let found = http().get(format!("{url}/view?filename=at_both.png&type=input")).send();
        assert_eq!(found.await.expect("an answer").status(), 200, "{url}");
    }
    // The address is nobody's any more: its worker starts it anew at another.
    kill(pid, Signal::SIGKILL).expect("it lives");
    let mut ids = Vec::new();
    for seed in 120..126 {
        ids.push(accept(seed).await);
    }
    for (seed, id) in (120..).zip(&ids) {
        assert_eq!(brightness(&picture_of(id).await), seed);
    }
    let health = worker.ask("/health").await.body;
    assert_eq!(health["workers"]["ready"], 1, "{health:#}");
}
