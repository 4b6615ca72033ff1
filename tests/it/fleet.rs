//! A fleet: a real NATS server, fronts and workers as processes, and what becomes of jobs while all of these are killed.

mod broker;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qwen_image_worker::fleet::{CONSUMER, Entry, JOBS, STREAM, SUBJECT, VERSION};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::binary::Served;
use crate::support::nats::{Nats, PASSWORD, USER};
use crate::support::{Answer, graph, http, shared, slow, text, until};

/// Jobs that are under way while things are killed, beside a few of other APIs.
const MANY: u32 = 200;

/// A front with a folder of its own, which outlives it.
struct Front {
    served: Served,
    vars: BTreeMap<String, String>,
    data: TempDir,
}

fn vars(data: &TempDir, more: &[(&str, String)]) -> BTreeMap<String, String> {
    let usual = [
        ("DATA_DIR", data.path().display().to_string()),
        ("PORT", "0".to_owned()),
        ("EDIT_PORT", "none".to_owned()),
        ("COMFY_REGISTRY_URL", "http://127.0.0.1:1".to_owned()),
        ("QUEUE_LIMIT", "1000".to_owned()),
    ];
    let all = usual.iter().chain(more);
    all.map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

impl Front {
    async fn start(nats: &Nats) -> Self {
        Self::start_with(nats, "ack_wait_s = 3").await
    }

    /// `more`: further lines of the engine.
    async fn start_with(nats: &Nats, more: &str) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let list = format!(
            "[[engine]]\nname = \"fleet\"\nkind = \"fleet\"\nurl = \"{}\"\nkey = \"env:NATS_KEY\"\n{more}\n",
            nats.bare_url()
        );
        let more = [("ENGINES", list), ("NATS_KEY", format!("{USER}:{PASSWORD}"))];
        let vars = vars(&data, &more);
        let served = Served::start(&vars).await;
        let front = Self { served, vars, data };
        front.is_connected().await;
        front
    }

    async fn is_connected(&self) {
        until("the front is connected", async || {
            self.served.ask("/health").await.body["engines"][0]["state"] == "ready"
        })
        .await;
    }

    /// `kill -9`, and started again on what it had.
    async fn killed(self) -> Self {
        let Self { served, vars, data } = self;
        served.kill().await;
        let served = Served::start(&vars).await;
        let front = Self { served, vars, data };
        front.is_connected().await;
        front
    }

    async fn run(&self, workflow: Value) -> String {
        self.served.accept(json!({"input": {"workflow": workflow}})).await
    }

    async fn status(&self, id: &str) -> Answer {
        self.served.ask(&format!("/status/{id}")).await
    }

    /// The job's picture, at its end.
    async fn picture(&self, id: &str) -> Vec<u8> {
        let end = self.served.end(id).await.body;
        assert_eq!(text(&end, "status"), "COMPLETED", "{id}: {end:#}");
        let images = end["output"]["images"].as_array().expect("images");
        assert_eq!(images.len(), 1, "{end:#}");
        if text(&images[0], "type") == "base64" {
            return STANDARD.decode(text(&images[0], "data")).expect("base64");
        }
        let (name, subfolder) = (text(&images[0], "filename"), text(&images[0], "subfolder"));
        let url = format!(
            "{}/view?filename={name}&subfolder={subfolder}&type=output",
            self.served.url
        );
        let answer = http().get(&url).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{url}");
        answer.bytes().await.expect("a file").to_vec()
    }

    /// How many pictures of test graphs it has written.
    fn pictures(&self) -> usize {
        let folder = self.data.path().join("front/output/test");
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    }
}

/// A worker of the fleet on a ComfyUI.
async fn worker(nats: &Nats, comfy: &str) -> (Served, TempDir) {
    let data = tempfile::tempdir().expect("a folder");
    let more = [
        ("COMFYUI_URL", comfy.to_owned()),
        ("FLEET_URL", nats.url()),
        // What runs goes back to the broker at once.
        ("SHUTDOWN_GRACE_S", "0".to_owned()),
    ];
    let served = Served::start(&vars(&data, &more)).await;
    (served, data)
}

async fn fleet_of(worker: &Served) -> Value {
    worker.ask("/health").await.body["fleet"].clone()
}

async fn takes_jobs(worker: &Served) {
    until("the worker takes jobs", async || {
        fleet_of(worker).await["state"] == "connected"
    })
    .await;
}

/// The brightness of a picture, which is its job's seed.
fn brightness(picture: &[u8]) -> u32 {
    let picture = image::load_from_memory(picture).expect("a picture").to_luma8();
    picture.get_pixel(0, 0).0[0].into()
}

async fn post(front: &Front, path: &str, body: Value) -> Answer {
    front.served.send(Method::POST, path, body.to_string()).await
}

#[tokio::test]
async fn each_job_ends_once_while_a_worker_the_broker_and_a_front_are_killed() {
    let comfy = shared().await;
    let comfy = comfy.comfy_url().await;
    let mut nats = Nats::start().await;
    let (mut first, second) = (Front::start(&nats).await, Front::start(&nats).await);
    let (doomed, _doomed_data) = worker(&nats, &comfy).await;
    let (one, _one_data) = worker(&nats, &comfy).await;
    let (other, _other_data) = worker(&nats, &comfy).await;
    for worker in [&doomed, &one, &other] {
        takes_jobs(worker).await;
    }

    let (mut jobs, mut tasks) = (Vec::new(), Vec::new());
    for seed in 1..=MANY {
        let front = if seed % 2 == 0 { &first } else { &second };
        let workflow = slow(1, 10 + 15 * (seed % 3), seed);
        let id = if seed % 6 == 1 {
            let answer = post(front, "/prompt", json!({"prompt": workflow})).await;
            text(&answer.body, "prompt_id").to_owned()
        } else {
            front.run(workflow).await
        };
        jobs.push((seed, id));
    }
    for seed in 1..=4_u32 {
        let front = if seed % 2 == 0 { &first } else { &second };
        let task = json!({"prompt": "a dragon", "image_size": "square", "acceleration_level": "none",
            "num_inference_steps": 1, "guidance_scale": 1, "seed": seed});
        let answer = post(front, "/api/v1/qwen/generate", task).await;
        tasks.push((seed, text(&answer.body["data"], "taskId").to_owned()));
    }
    let failing = first.run(graph("Raise", json!({"message": "a fox is missing"}))).await;
    let large = post(&first, "/run", large_job()).await;
    let large = text(&large.body, "id").to_owned();
    // Their clients wait on their connections, at the front that lives.
    let url = format!("{}/v1/images/generations", second.served.url);
    let prompted = tokio::spawn(async move {
        let mut seeds = Vec::new();
        for seed in [5, 6] {
            let body = json!({"prompt": "a fox", "size": "64x64", "seed": seed, "quality": "low", "response_format": "b64_json"});
            let answer = http()
                .post(&url)
                .body(body.to_string())
                .send()
                .await
                .expect("an answer");
            let status = answer.status();
            let answer: Value = answer.json().await.expect("JSON");
            assert!(status.is_success(), "{answer:#}");
            seeds.push(answer["data"][0]["b64_json"].as_str().map_or(0, str::len));
        }
        seeds
    });

    let done = async |at_least: u64| {
        until("some are done", async || {
            let health = second.served.ask("/health").await.body;
            health["jobs"]["completed"].as_u64() >= Some(at_least)
        })
        .await;
    };
    done(5).await;
    doomed.kill().await;
    done(20).await;
    nats.kill().await;
    // Down for longer than a worker's heartbeat.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    nats.start_again().await;
    done(40).await;
    first = first.killed().await;

    let look = async |(seed, id): &(u32, String)| {
        let (own, foreign) = if seed % 2 == 0 {
            (&first, &second)
        } else {
            (&second, &first)
        };
        if seed % 6 == 1 {
            assert_eq!(text(&own.served.end(id).await.body, "status"), "COMPLETED", "{id}");
        } else {
            assert_eq!(brightness(&own.picture(id).await), *seed, "another's picture");
        }
        // Either front knows each job.
        assert_eq!(brightness(&foreign.picture(id).await), *seed, "another's picture");
    };
    for some in jobs.chunks(16) {
        futures_util::future::join_all(some.iter().map(&look)).await;
    }
    for (seed, id) in &tasks {
        let front = if seed % 2 == 0 { &first } else { &second };
        until("the task ends", async || {
            let record = front
                .served
                .ask(&format!("/api/v1/qwen/record-info?taskId={id}"))
                .await
                .body;
            assert!([json!(0), json!(1)].contains(&record["successFlag"]), "{record:#}");
            record["successFlag"] == 1
        })
        .await;
    }
    let failed = first.served.end(&failing).await.body;
    assert_eq!(text(&failed, "status"), "FAILED");
    assert!(failed.to_string().contains("a fox is missing"), "{failed:#}");
    assert_eq!(text(&second.status(&failing).await.body, "status"), "FAILED");
    for front in [&first, &second] {
        let picture = image::load_from_memory(&front.picture(&large).await).expect("a picture");
        assert!(picture.to_rgb8() == noise(), "another picture");
    }
    let lengths = prompted.await.expect("they are answered");
    assert!(lengths.iter().all(|length| *length > 100), "{lengths:?}");
    // Each result was written once.
    assert_eq!(second.pictures(), MANY as usize / 2, "one for each job");
    // One that was killed may keep messages that it hands out no more, as it forgot that it had removed them.
    until("the broker has nothing left", async || nats.jobs().await[1..] == [0, 0]).await;
    for worker in [&one, &other] {
        until("it has nothing left", async || {
            let fleet = fleet_of(worker).await;
            (&fleet["state"], &fleet["jobs"]) == (&json!("connected"), &json!(0))
        })
        .await;
    }
}

#[tokio::test]
async fn what_goes_wrong_in_a_fleet_is_made_good() {
    let comfy = shared().await;
    let comfy = comfy.comfy_url().await;
    let mut nats = Nats::start().await;
    let (first, second) = (Front::start(&nats).await, Front::start(&nats).await);
    let (one, _one_data) = worker(&nats, &comfy).await;
    takes_jobs(&one).await;

    // What is no job is removed, and others go on.
    let broker = nats.client().await;
    let bucket = broker.get_key_value(JOBS).await.expect("the front has made it");
    let (stranger, newer) = (uuid::Uuid::now_v7().to_string(), uuid::Uuid::now_v7().to_string());
    let entry = serde_json::to_vec(&Entry::new("front", false)).expect("JSON");
    bucket.create(&newer, entry.into()).await.expect("it is new");
    let message = |job: &str, version: u32| {
        json!({"version": version, "job": job, "round": 1, "timeout_ms": 60_000, "request": {"here": "{}"}}).to_string()
    };
    for poison in [
        "hello".to_owned(),
        message(&stranger, VERSION),
        message(&newer, VERSION + 6),
    ] {
        let sent = broker.publish(SUBJECT, poison.into()).await.expect("it is sent");
        sent.await.expect("it is taken");
    }
    let id = first.run(slow(2, 20, 7)).await;
    assert_eq!(brightness(&first.picture(&id).await), 7);
    let refused = second.status(&newer).await.body;
    let versions = [format!("version {}", VERSION + 6), format!("version {VERSION}")];
    assert!(
        versions.iter().all(|version| refused.to_string().contains(version)),
        "{refused:#}"
    );
    until("nothing is left", async || nats.jobs().await == [0, 0, 0]).await;

    // A job is cancelled wherever it is asked for.
    let id = first.run(slow(200, 100, 8)).await;
    until("it runs", async || {
        text(&second.status(&id).await.body, "status") == "IN_PROGRESS"
    })
    .await;
    let cancelled = second
        .served
        .send(Method::POST, &format!("/cancel/{id}"), String::new())
        .await;
    assert_eq!(text(&cancelled.body, "status"), "CANCELLED", "{cancelled:?}");
    assert_eq!(text(&first.served.end(&id).await.body, "status"), "CANCELLED");
    until("its worker has let go of it", async || {
        fleet_of(&one).await["jobs"] == 0
    })
    .await;

    // A worker that hangs is replaced; what it made in the end counts no more.
    let id = first.run(slow(20, 100, 9)).await;
    until("it runs", async || {
        text(&first.status(&id).await.body, "status") == "IN_PROGRESS"
    })
    .await;
    let frozen = Pid::from_raw(one.pid());
    kill(frozen, Signal::SIGSTOP).expect("it lives");
    let (other, _other_data) = worker(&nats, &comfy).await;
    assert_eq!(brightness(&first.picture(&id).await), 9);
    assert_eq!(fleet_of(&other).await["state"], "connected");
    kill(frozen, Signal::SIGCONT).expect("it lives");
    until("it has seen that", async || fleet_of(&one).await["jobs"] == 0).await;
    until("nothing is left", async || nats.jobs().await == [0, 0, 0]).await;

    // Nobody is refused for a broker that is away, but who waits on a connection.
    nats.kill().await;
    until("the front knows", async || {
        first.served.ask("/health").await.body["engines"][0]["state"] == "resting"
    })
    .await;
    let id = first.run(slow(2, 20, 10)).await;
    let body = json!({"prompt": "a fox", "size": "64x64", "quality": "low"});
    let refused = post(&first, "/v1/images/generations", body).await;
    assert_eq!(
        (refused.status, &refused.body["retry-after"]),
        (503, &json!(true)),
        "{refused:?}"
    );
    assert_eq!(fleet_of(&one).await["state"], "away");
    nats.start_again().await;
    assert_eq!(brightness(&first.picture(&id).await), 10);

    // A worker that ends gives its job back.
    let id = first.run(slow(30, 100, 11)).await;
    until("it runs", async || {
        text(&first.status(&id).await.body, "status") == "IN_PROGRESS"
    })
    .await;
    let (has_it, has_none) = if fleet_of(&one).await["jobs"] == 1 {
        (one, other)
    } else {
        (other, one)
    };
    has_it.terminate();
    assert_eq!(brightness(&first.picture(&id).await), 11);
    takes_jobs(&has_none).await;

    // A fleet of another release is refused by both sides.
    let bucket = broker.get_key_value(JOBS).await.expect("it is there");
    let numbers = json!({"version": VERSION + 6, "ack_wait_ms": 3000, "retries": 1, "kept_s": 3600});
    bucket
        .put("numbers", numbers.to_string().into())
        .await
        .expect("it is taken");
    let (late, _late_data) = worker(&nats, &comfy).await;
    until("the worker tells both versions", async || {
        let told = fleet_of(&late).await;
        told["state"] == "waiting" && versions.iter().all(|version| text(&told, "reason").contains(version))
    })
    .await;
    let third_data = tempfile::tempdir().expect("a folder");
    let mut vars = first.vars.clone();
    vars.insert("DATA_DIR".to_owned(), third_data.path().display().to_string());
    let third = Served::start(&vars).await;
    until("the front tells both versions", async || {
        let told = third.ask("/health").await.body["engines"][0].clone();
        told["state"] == "resting" && versions.iter().all(|version| text(&told, "reason").contains(version))
    })
    .await;
}

/// The text of a file of the deployment.
fn deployed(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/keda")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_manifests_name_what_the_front_makes() {
    use saphyr::{LoadableYamlNode as _, Yaml};
    let scaled = deployed("scaledobject.yaml");
    let documents = Yaml::load_from_str(&scaled).expect("YAML");
    let trigger = &documents[0]["spec"]["triggers"][0];
    assert_eq!(trigger["type"].as_str(), Some("nats-jetstream"));
    let metadata = &trigger["metadata"];
    assert_eq!(metadata["stream"].as_str(), Some(STREAM));
    assert_eq!(metadata["consumer"].as_str(), Some(CONSUMER));
    let workers = deployed("worker.yaml");
    let documents = Yaml::load_from_str(&workers).expect("YAML");
    let deployment = documents
        .iter()
        .find(|document| document["kind"].as_str() == Some("Deployment"));
    let deployment = deployment.expect("a Deployment");
    let scaled = Yaml::load_from_str(&scaled).expect("YAML");
    assert_eq!(
        scaled[0]["spec"]["scaleTargetRef"]["name"].as_str(),
        deployment["metadata"]["name"].as_str()
    );
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_sequence().expect("variables");
    assert!(
        variables
            .iter()
            .any(|variable| variable["name"].as_str() == Some("FLEET_URL"))
    );
}

/// A picture that no compression makes small: neither request nor result goes in a message.
fn noise() -> image::RgbImage {
    let mut state = 1_u32;
    image::RgbImage::from_fn(640, 640, |_, _| {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        image::Rgb([next(), next(), next()])
    })
}

fn large_job() -> Value {
    let mut file = std::io::Cursor::new(Vec::new());
    noise().write_to(&mut file, image::ImageFormat::Png).expect("a picture");
    let picture = format!("data:image/png;base64,{}", STANDARD.encode(file.into_inner()));
    let workflow = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "noise.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "large"}},
    });
    json!({"input": {"workflow": workflow, "images": [{"name": "noise.png", "image": picture}]}})
}

#[tokio::test]
async fn a_preview_of_a_worker_is_seen_at_the_front() {
    let comfy = shared().await;
    let comfy = comfy.comfy_url().await;
    let nats = Nats::start().await;
    let front = Front::start(&nats).await;
    let (worker, _data) = worker(&nats, &comfy).await;
    takes_jobs(&worker).await;
    let id = front.run(slow(60, 50, 12)).await;
    let events = http().get(format!("{}/events/{id}", front.served.url));
    let told = events.send().await.expect("an answer").text().await.expect("its end");
    let preview = told
        .split("event: preview")
        .nth(1)
        .unwrap_or_else(|| panic!("none: {told}"));
    let data = preview.lines().find_map(|line| line.strip_prefix("data: "));
    let data: Value = serde_json::from_str(data.expect("its data")).expect("JSON");
    let content = STANDARD.decode(text(&data, "image")).expect("base64");
    assert!(image::load_from_memory(&content).is_ok(), "no picture");
    assert_eq!(brightness(&front.picture(&id).await), 12);
}
