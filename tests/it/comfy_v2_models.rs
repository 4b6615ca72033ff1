//! Models that clients of Comfy API v2 upload, before the real ComfyUI; and files that stand in their graphs.

use serde_json::{Value, json};

use crate::support::comfy_v2::{ended, loads, reference, submit, succeeded, upload, workflow};
use crate::support::comfyui::Client;
use crate::support::{Worker, shared, text};

const KEY: &str = "a-key-of-the-tests";
const GRAPH: &str = include_str!("../../workflows/qwen-image-lightning.json");

#[tokio::test]
async fn a_model_is_there_for_the_job_that_names_it_and_goes_with_it() {
    let shared = shared().await;
    let data = shared.data.as_ref().expect("a folder").path();
    let lora = data.join("demo/models/loras/Qwen-Image-Lightning-8steps-V1.0.safetensors");
    let lora = std::fs::read(lora).expect("a LoRA of the demo weights");
    // Where the ComfyUI of that worker reads its own.
    let models = data.join("base/models");
    let vars = [
        ("API_KEY", KEY),
        ("ASSET_MODELS", "true"),
        ("MODEL_DIR", &models.display().to_string()),
    ];
    let worker = Worker::attached(&shared.comfy_url().await, &vars).await;
    worker.ready().await;
    let client = Client::new(&worker.url).with_key(KEY);
    let asset = upload(&client, "models/loras/mine.safetensors", lora).await;
    let mut graph: Value = serde_json::from_str(GRAPH).expect("a graph");
    graph["lora"]["inputs"]["lora_name"] = reference(text(&asset, "id"));
    graph["latent"]["inputs"]["width"] = json!(64);
    graph["latent"]["inputs"]["height"] = json!(64);
    graph["sample"]["inputs"]["steps"] = json!(1);
    graph["sample"]["inputs"]["seed"] = json!(8_400_001);
    let (job, end) = succeeded(&client, &graph).await;
    assert_eq!(end["outputs"][0]["type"], "image");
    let told = workflow(&client, &job).await;
    let told = &told["workflow"]["lora"]["inputs"]["lora_name"];
    assert_eq!(
        (&told["__type"], &told["info"]["id"]),
        (&json!("core/ASSET"), &asset["id"])
    );
    let lent = models.join("loras/qwen-image-worker-assets");
    crate::support::until("the model is gone again", async || {
        std::fs::read_dir(&lent).map_or(0, Iterator::count) == 0
    })
    .await;
    // It is no picture.
    let said = submit(
        &client,
        &json!({"workflow": loads(&reference(text(&asset, "id")), "v2/none")}),
        None,
    )
    .await;
    let end = match said.status {
        201 => ended(&client, text(&said.body, "id")).await,
        _ => said.body,
    };
    assert!(end["error"].is_object(), "{end:#}");
}

#[tokio::test]
async fn a_file_may_stand_in_the_graph_itself_and_is_told_so() {
    const PIXEL: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let worker = Worker::beside_shared(&[]).await;
    worker.ready().await;
    let client = Client::new(&worker.url);
    let graph = loads(&json!(PIXEL), "v2/in-graph");
    let (job, end) = succeeded(&client, &graph).await;
    let told = workflow(&client, &job).await;
    let image = text(&told["workflow"]["1"]["inputs"], "image");
    assert!(image.starts_with("data:image/png;base64,"), "{image}");
    // What the job made is a file for the next one.
    let again = loads(&reference(text(&end["outputs"][0], "id")), "v2/again");
    succeeded(&client, &again).await;
}

#[tokio::test]
async fn a_saved_workflow_is_converted_and_who_is_more_urgent_goes_first() {
    let worker = Worker::beside_shared(&[]).await;
    worker.ready().await;
    let client = Client::new(&worker.url);
    let saved = json!({
        "nodes": [
            {"id": 1, "type": "EmptyImage", "inputs": [], "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
             "widgets_values": [64, 64, 1, 8_400_002]},
            {"id": 2, "type": "SaveImage", "inputs": [{"name": "images", "type": "IMAGE", "link": 1}], "outputs": [],
             "widgets_values": ["v2/saved"]},
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]], "last_node_id": 2, "last_link_id": 1, "version": 0.4,
    });
    let (job, _) = succeeded(&client, &saved).await;
    let told = workflow(&client, &job).await;
    assert_eq!(
        (text(&told, "format"), &told["workflow"]["1"]["inputs"]["width"]),
        ("api", &json!(64))
    );

    let slow = |seed| json!({"workflow": crate::support::slow(20, 50, seed)});
    let mut jobs = Vec::new();
    for (seed, priority) in [
        (8_400_010, 0),
        (8_400_011, 0),
        (8_400_012, 0),
        (8_400_013, 0),
        (8_400_014, 5),
    ] {
        let mut body = slow(seed);
        body["priority"] = json!(priority);
        let said = submit(&client, &body, None).await;
        assert_eq!((said.status, &said.body["priority"]), (201, &json!(priority)));
        jobs.push(text(&said.body, "id").to_owned());
    }
    let mut began = Vec::new();
    for id in &jobs {
        let end = ended(&client, id).await;
        began.push(text(&end, "started_at").to_owned());
    }
    // Those before it may have gone to ComfyUI already.
    assert!(began[4] < began[3], "{began:?}");
}
