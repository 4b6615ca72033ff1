//! LoRAs and models that requests name by their address: from a Hub, from Civitai and from elsewhere, on the real `ComfyUI`.

mod refused;

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::RwLockReadGuard;

use crate::support::civitai::{self, Civitai, Version};
use crate::support::model_hub::{Content, Host, Link, ModelHub, Plain};
use crate::support::{PATIENCE, Worker, shared, text, until};

/// The LoRA of the demo weights that the tests fetch.
const LORA: &str = "Qwen-Image-Lightning-8steps-V1.0.safetensors";
const FOLDER: &str = "loras/qwen-image-worker-urls";

/// A worker of its own on the shared `ComfyUI`, and where it fetches from.
struct World {
    hub: ModelHub,
    civitai: Civitai,
    worker: Worker,
    models: PathBuf,
    lora: Vec<u8>,
    _folder: TempDir,
    _shared: RwLockReadGuard<'static, Worker>,
}

impl World {
    async fn new(more: &[(&str, &str)]) -> Self {
        let shared = shared().await;
        let data = shared.data.as_ref().expect("a folder of its own").path();
        let lora = std::fs::read(data.join("demo/models/loras").join(LORA)).expect("a LoRA of the demo weights");
        let (hub, civitai) = (ModelHub::start().await, Civitai::start().await);
        let models = data.join("base/models");
        // The models that the LoRAs are for lie in another place than what is fetched.
        let folder = tempfile::tempdir().expect("a folder");
        for (kind, place) in [
            ("loras", models.join("loras")),
            ("diffusion_models", data.join("demo/models/diffusion_models")),
        ] {
            std::fs::create_dir_all(&place).expect("a folder");
            std::os::unix::fs::symlink(place, folder.path().join(kind)).expect("a link");
        }
        let dir = folder.path().display().to_string();
        let (hub_url, civitai_url) = (hub.url.to_string(), civitai.url.to_string());
        let mut vars = vec![
            ("MODEL_DIR", dir.as_str()),
            ("HF_ENDPOINT", hub_url.as_str()),
            ("HF_TOKEN", ""),
            ("CIVITAI_ENDPOINT", civitai_url.as_str()),
            ("ALLOW_PRIVATE_URLS", "127.0.0.1"),
            ("URL_MODELS", "huggingface.co,civitai.com,127.0.0.1,10.0.0.1"),
        ];
        vars.extend(more);
        let worker = Worker::attached(&shared.comfy_url().await, &vars).await;
        worker.ready().await;
        Self {
            hub,
            civitai,
            worker,
            models,
            lora,
            _folder: folder,
            _shared: shared,
        }
    }

    /// Puts a LoRA on the Hub; gives the address that people copy.
    fn on_hub(&self, path: &str, content: &[u8]) -> String {
        self.hub
            .push("owner/style", "main", [(path, &Content::literal(content))]);
        let url = &self.hub.url;
        format!("{url}owner/style/blob/main/{path}")
    }

    /// The LoRA with another content: a text in its header, and a tensor of so many bytes that nothing uses.
    fn other(&self, note: &str, more: usize) -> Vec<u8> {
        let length = usize::try_from(u64::from_le_bytes(self.lora[..8].try_into().expect("eight bytes")));
        let (header, tensors) = self.lora[8..].split_at(length.expect("short"));
        let mut header: Value = serde_json::from_slice(header).expect("JSON");
        header["__metadata__"] = json!({ "note": note });
        let end = tensors.len() + more;
        header["text_model.unused"] = json!({"dtype": "U8", "shape": [more], "data_offsets": [tensors.len(), end]});
        file(&header, &[tensors, &vec![0; more]].concat())
    }

    async fn picture(&self, loras: Value) -> Vec<u8> {
        let answer = self.worker.run(input(loras)).await.completed();
        assert_eq!(answer.body["output"].get("warnings"), None, "{:#}", answer.body);
        pixels(&self.worker.first_image(&answer).await)
    }
}

fn input(loras: Value) -> Value {
    let mut input =
        json!({"prompt": "a fox", "template": "qwen-image", "width": 64, "height": 64, "steps": 1, "seed": 4});
    input["loras"] = loras;
    input
}

fn pixels(picture: &[u8]) -> Vec<u8> {
    image::load_from_memory(picture)
        .expect("a picture")
        .to_rgb8()
        .into_raw()
}

/// A safetensors file.
fn file(header: &Value, tensors: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), tensors].concat()
}

#[tokio::test]
async fn a_lora_by_its_address_is_the_one_by_its_name_and_its_strength_counts() {
    let world = World::new(&[("CIVITAI_TOKEN", civitai::KEY)]).await;
    let url = world.on_hub("a/style.safetensors", &world.lora);
    world.civitai.put(
        7,
        Version {
            early: true,
            ..Version::good(&world.lora)
        },
    );
    let by_name = world.picture(json!([{"name": LORA, "strength": 0.8}])).await;
    let without = world.picture(json!([])).await;
    assert_ne!(by_name, without);
    for lora in [
        json!({"url": url, "strength": 0.8}),
        json!({"url": "hf://owner/style@main/a/style.safetensors", "strength": 0.8}),
        json!({"name": "civitai:7", "strength": 0.8}),
        json!({"url": world.civitai.url.join("models/500/a-style?modelVersionId=7").expect("a URL"), "strength": 0.8}),
        json!({"url": "urn:air:qwen:lora:civitai:500", "strength": 0.8}),
    ] {
        assert!(world.picture(json!([lora])).await == by_name, "{lora}");
    }
    // What is there by its content is not fetched again, wherever it is.
    let fetched = world.civitai.fetched(7).into_iter();
    let bodies = fetched.filter(|asked| asked.method == "GET" && asked.range != "bytes=0-0");
    assert_eq!(bodies.count(), 0);
    let weaker = world.picture(json!([{"url": url, "strength": 0.2}])).await;
    assert!(weaker != by_name && weaker != without);
    assert!(world.picture(json!([{"url": url, "strength": 0}])).await == without);

    // In a graph, which is told with what its owner wrote.
    let mut graph: Value =
        serde_json::from_str(include_str!("../../../workflows/qwen-image-lightning.json")).expect("a graph");
    graph["lora"]["inputs"]["lora_name"] = json!(url);
    graph["latent"]["inputs"]["width"] = json!(64);
    graph["latent"]["inputs"]["height"] = json!(64);
    graph["sample"]["inputs"]["steps"] = json!(1);
    let answer = world
        .worker
        .run(json!({"workflow": graph, "return_workflow": true}))
        .await
        .completed();
    assert_eq!(
        answer.body["output"]["workflow"]["lora"]["inputs"]["lora_name"],
        json!(url)
    );
    // A prompt that is an address is a prompt.
    graph["positive"]["inputs"]["text"] = json!(url);
    world.worker.run(json!({ "workflow": graph })).await.completed();

    // The key goes to Civitai, and not to the host that it leads to.
    let asked = world.civitai.asked();
    assert!(
        asked.iter().all(|asked| asked.signed == asked.key.is_empty()),
        "{asked:#?}"
    );
    assert!(asked.iter().any(|asked| asked.signed) && asked.iter().any(|asked| !asked.signed));
    // A file that comes from there, and from a server that knows no hash.
    let fresh = world.other("from Civitai", 0);
    world.civitai.put(
        8,
        Version {
            early: true,
            ..Version::good(&fresh)
        },
    );
    assert!(world.picture(json!([{"name": "civitai:8", "strength": 0.8}])).await == by_name);
    assert!(world.civitai.fetched(8).iter().all(|asked| asked.key.is_empty()));
    let plain = world
        .hub
        .put("x.safetensors", Plain::new(Content::literal(world.other("plain", 0))));
    for _ in 0..2 {
        assert!(world.picture(json!([{"url": plain, "strength": 0.8}])).await == by_name);
    }
    let requests = world.hub.requests().into_iter();
    let bodies = requests.filter(|asked| asked.host == Host::Files && asked.method == "GET");
    assert_eq!(bodies.count(), 2, "the header, and the file; the second time neither");
}

#[tokio::test]
async fn there_is_one_download_for_all_who_wait_and_it_ends_with_the_last() {
    let world = World::new(&[]).await;
    let slow = Link {
        connection: Some(300_000),
        ..Link::default()
    };
    let content = world.other("one for all", 3_000_000);
    let url = world.on_hub("slow.safetensors", &content);
    world.hub.link(slow);
    let accept = async |strength: f64| {
        let body = json!({"input": input(json!([{"url": url, "strength": strength}]))}).to_string();
        let answer = world.worker.send(Method::POST, "/run", body).await;
        text(&answer.body, "id").to_owned()
    };
    let first = accept(0.3).await;
    let mut progress = json!(null);
    until("the job waits for its LoRA", async || {
        progress = world.worker.ask(&format!("/status/{first}")).await.body["progress"].take();
        progress["download"]["bytes"].as_u64() > Some(0)
    })
    .await;
    assert_eq!(text(&progress, "stage"), "downloading");
    assert_eq!(
        text(&progress["download"], "file"),
        "hf://owner/style@main/slow.safetensors"
    );
    assert_eq!(progress["download"]["total_bytes"], content.len());
    let (second, third) = (accept(0.4).await, accept(0.5).await);
    until("the others wait too", async || {
        let waiting = [&second, &third].map(async |id: &String| {
            let status = world.worker.ask(&format!("/status/{id}")).await;
            status.body["progress"]["download"]["bytes"].as_u64() > Some(0)
        });
        futures_util::future::join_all(waiting)
            .await
            .into_iter()
            .all(|waits| waits)
    })
    .await;
    // The one who began it goes; the others have their file.
    world.worker.send(Method::POST, &format!("/cancel/{first}"), "").await;
    world.hub.link(Link::default());
    world.worker.end(&second).await.completed();
    world.worker.end(&third).await.completed();
    let sent: u64 = world.hub.sent();
    assert!(
        sent < content.len() as u64 * 3 / 2 + 200_000,
        "{sent} of {}",
        content.len()
    );

    // When nobody waits any longer, nothing comes any longer.
    world.hub.forget();
    let url = world.on_hub("alone.safetensors", &world.other("for nobody", 3_000_000));
    world.hub.link(slow);
    let body = json!({"input": input(json!([url]))}).to_string();
    let answer = world.worker.send(Method::POST, "/run", body).await;
    let id = text(&answer.body, "id").to_owned();
    until("it comes", async || world.hub.sent() > 100_000).await;
    world.worker.send(Method::POST, &format!("/cancel/{id}"), "").await;
    let still = async || {
        let before = world.hub.sent();
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.hub.sent() == before
    };
    until("nothing comes", still).await;
    world.hub.link(Link::default());
    world.worker.run(input(json!([url]))).await.completed();
}

#[tokio::test]
async fn one_address_may_have_another_file_the_next_time() {
    let world = World::new(&[]).await;
    for (tagged, name) in [(true, "tagged.safetensors"), (false, "untagged.safetensors")] {
        for text in ["first", "second", "first"] {
            let content = Content::literal(world.other(&format!("{name} {text}"), 0));
            let hash = content.sha256();
            let mut plain = Plain::new(content);
            if !tagged {
                (plain.etag, plain.last_modified) = (None, None);
            }
            let url = world.hub.put(name, plain);
            world.worker.run(input(json!([url]))).await.completed();
            // It is there whole, under its own hash.
            let path = world.models.join(FOLDER).join(format!("{hash}.safetensors"));
            assert_eq!(sha256(&path), hash, "{name}: {text}");
        }
    }
}

fn sha256(path: &Path) -> String {
    Content::literal(std::fs::read(path).expect("a file")).sha256()
}

#[tokio::test]
async fn other_apis_take_them_too() {
    let world = World::new(&[("RETURN_IMAGES_AS", "base64")]).await;
    let url = world.on_hub("style.safetensors", &world.lora);
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .expect("a client");
    let post = async |path: &str, body: Value| {
        let request = client
            .post(format!("{}{path}", world.worker.url))
            .bearer_auth("key")
            .body(body.to_string());
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    let mut bodies = Vec::new();
    for loras in [json!([]), json!([{"url": url}]), json!([{"name": LORA}])] {
        let body = json!({"prompt": "a fox", "size": "64x64", "steps": 1, "seed": 4, "loras": loras});
        let (status, body) = post("/v1/images/generations", body).await;
        assert_eq!(status, 200, "{body:#}");
        bodies.push(pixels(&decoded(text(&body["data"][0], "b64_json"))));
    }
    assert!(bodies[0] != bodies[1] && bodies[1] == bodies[2]);
    let wrong = json!({"prompt": "a fox", "loras": ["https://10.0.0.1/x.safetensors"]});
    let (status, body) = post("/v1/images/generations", wrong).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("loras[0]")), "{body:#}");

    let task = json!({"prompt": "a fox", "image_size": "square", "acceleration_level": "none", "num_inference_steps": 1,
        "guidance_scale": 1, "lora_urls": ["https://10.0.0.1/x.safetensors"]});
    let (_, body) = post("/api/v1/qwen/generate", task).await;
    let path = format!("/api/v1/qwen/record-info?taskId={}", text(&body["data"], "taskId"));
    let record = world
        .worker
        .ask_until(&path, |record| record["data"]["successFlag"] != 0)
        .await;
    let told = text(&record["data"], "errorMessage");
    assert!(
        told.starts_with("lora_urls[0]: ") && told.contains("10.0.0.1"),
        "{record:#}"
    );
}

fn decoded(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
}
