//! ComfyUI's own API, held against ComfyUI: what is answered to prompts, and to questions about them.

use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::comfyui_recording::{Recording, is_the_same, is_the_same_but};
use crate::support::text;

/// What a refusal of ours says beside, or in place of, ComfyUI's: our own sentences, no lines of its source, and no more of an
/// input's description than we know; every missing model; and of a graph of which a part runs, that part. A picture in an error is
/// told by its numbers.
const MORE_WORDS: &[&str] = &[
    "/extra_info/advice",
    "/body/error/details",
    "/extra_info/input_config",
    "/extra_info/traceback",
    "nobody-has-this",
    // Of several mistakes ComfyUI tells now this one first, now another.
    "VAEDecode",
    "ImageInvert",
    // Where ComfyUI breaks.
    "upload: no name",
    "/workflow/prompt/",
    "/prompt/2/",
    "/current_inputs/",
];

/// Asks for everything about a prompt that is over.
async fn about(recording: &mut Recording<'_>, id: &str) -> Value {
    let history = recording.get(&format!("/history/{id}")).await.body;
    recording.get(&format!("/api/history/{id}")).await;
    recording.get(&format!("/api/jobs/{id}")).await;
    history[id].clone()
}

#[tokio::test]
async fn a_prompt_from_its_first_message_to_its_picture() {
    is_the_same_but(
        async |recording| {
            let mut socket = recording.socket_with_flags().await;
            let graph = recording.empty(0);
            let id = recording.prompt(&graph).await;
            recording.over(&mut socket, &id).await;
            let entry = about(recording, &id).await;
            for path in ["/queue", "/api/queue", "/prompt", "/features", "/history?max_items=1"] {
                recording.get(path).await;
            }
            let image = &entry["outputs"]["2"]["images"][0];
            let (name, folder) = (text(image, "filename"), text(image, "subfolder"));
            let view = format!("/view?filename={name}&subfolder={folder}&type=output");
            for more in ["", "&preview=webp;75", "&channel=rgb", "&channel=a"] {
                recording.get(&format!("{view}{more}")).await;
            }
            recording.get(&format!("/api{view}")).await;
            for path in [
                "/view?filename=nope.png&type=output",
                "/history/00000000-0000-0000-0000-000000000000",
                "/api/jobs/00000000-0000-0000-0000-000000000000",
                "/history/nonsense",
            ] {
                recording.get(path).await;
            }
            // What is the same comes from the cache.
            let id = recording.prompt(&graph).await;
            recording.over(&mut socket, &id).await;
            about(recording, &id).await;
            let mut other = graph.clone();
            other["2"]["inputs"]["filename_prefix"] = json!(format!("{}/other", recording.salt));
            let id = recording.prompt(&other).await;
            recording.over(&mut socket, &id).await;
            about(recording, &id).await;
            socket.close().await;
        },
        &["/view?filename=nope.png"],
    )
    .await;
}

/// What is tried, the file's name and content, and the other fields.
type Upload<'a> = (&'a str, &'a str, &'a [u8], &'a [(&'a str, &'a str)]);

fn png(color: [u8; 3]) -> Vec<u8> {
    let mut content = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_pixel(80, 60, image::Rgb(color));
    picture.write_to(&mut content, image::ImageFormat::Png).expect("a PNG");
    content.into_inner()
}

#[tokio::test]
async fn uploads_and_graphs_that_use_them() {
    is_the_same_but(async |recording| {
        let (red, blue) = (png([200, 0, 0]), png([0, 0, 200]));
        let name = format!("in-{}.png", recording.salt);
        let folder = format!("jobs/{}", recording.salt);
        let uploads: [Upload<'_>; 9] = [
            ("first", &name, &red, &[]),
            ("the same bytes", &name, &red, &[]),
            ("other bytes", &name, &blue, &[]),
            ("overwrite", &name, &blue, &[("overwrite", "true")]),
            ("a folder", "src.png", &red, &[("subfolder", &folder), ("overwrite", "1")]),
            ("another folder", "src.png", &red, &[("subfolder", "../../x")]),
            ("type=temp", &name, &red, &[("type", "temp")]),
            ("no picture", "no.png", b"hello", &[("subfolder", &folder)]),
            ("no name", "", &red, &[]),
        ];
        for (what, name, content, fields) in uploads {
            let mut form = Form::new().part("image", Part::bytes(content.to_vec()).file_name(name.to_owned()));
            for (name, value) in fields {
                form = form.text((*name).to_owned(), (*value).to_owned());
            }
            let request = recording.client.request(Method::POST, "/upload/image").multipart(form);
            recording.send(&format!("upload: {what}"), request).await;
        }
        let form = Form::new().text("overwrite", "true");
        let request = recording.client.request(Method::POST, "/api/upload/image").multipart(form);
        recording.send("upload: no image", request).await;

        let mut socket = recording.socket().await;
        let load = |image: &str| {
            json!({
                "1": {"class_type": "LoadImage", "inputs": {"image": image}},
                "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": format!("{folder}/out")}},
            })
        };
        for image in [format!("{folder}/src.png"), format!("{folder}/no.png")] {
            let id = recording.prompt(&load(&image)).await;
            recording.over(&mut socket, &id).await;
            about(recording, &id).await;
        }
        recording.prompt_with(&load("missing.png"), &json!({})).await;
        socket.close().await;
    }, MORE_WORDS)
    .await;
}

#[tokio::test]
async fn prompts_that_are_refused() {
    is_the_same_but(async |recording| {
        let empty = recording.empty(0);
        let (one, two) = (empty["1"].clone(), empty["2"].clone());
        let save = |from: Value| json!({"class_type": "SaveImage", "inputs": {"images": from, "filename_prefix": "x"}});
        let image = |inputs: Value| json!({"1": {"class_type": "EmptyImage", "inputs": inputs}, "2": two});
        let unet = json!({"class_type": "UNETLoader", "inputs": {"unet_name": "nobody-has-this.safetensors", "weight_dtype": "default"}});
        let graphs = [
            json!({"1": {"class_type": "NoSuchNode", "inputs": {}}, "2": two}),
            json!({"1": {"inputs": {}}, "2": two}),
            json!({"1": {"inputs": {}, "_meta": {"title": "Mine"}}, "2": two}),
            image(json!({"width": 64, "batch_size": 1, "color": 1})),
            image(json!({"width": 999_999, "height": 48, "batch_size": 1, "color": 1})),
            image(json!({"width": 0, "height": 48, "batch_size": 1, "color": 1})),
            image(json!({"width": "wide", "height": 48, "batch_size": 1, "color": 1})),
            image(json!({"width": 64, "height": 48, "batch_size": 1, "color": [1]})),
            json!({"1": unet, "2": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "sampler_name": "nope"}}, "3": save(json!(["2", 0]))}),
            json!({}),
            json!({"1": one}),
            json!({"2": save(json!(["9", 0]))}),
            json!({"1": one, "2": {"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": ["1", 0]}}, "3": save(json!(["2", 0]))}),
            json!({"2": save(json!(["1"]))}),
            json!({"1": one, "2": save(json!(["1", 7]))}),
            json!({"1": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
                "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}, "3": save(json!(["2", 0]))}),
        ];
        for graph in graphs {
            recording.prompt_with(&graph, &json!({})).await;
        }
        for id in ["job-1", "", "00000000-0000-0000-0000-00000000000A"] {
            recording.prompt_with(&empty, &json!({"prompt_id": id})).await;
        }
        recording.post("/prompt", &json!({"client_id": "a"})).await;

        // One output is good: it runs, and what is wrong with the other one is told.
        let mut socket = recording.socket().await;
        let mut both = recording.empty(1);
        both["3"] = json!({"class_type": "EmptyImage", "inputs": {"width": 1, "batch_size": 1, "color": 1}});
        both["4"] = save(json!(["3", 0]));
        let id = recording.prompt(&both).await;
        recording.over(&mut socket, &id).await;
        about(recording, &id).await;
        // What leads out of the folder is an error of the execution.
        let mut out = recording.empty(2);
        out["2"]["inputs"]["filename_prefix"] = json!("../../evil");
        let id = recording.prompt(&out).await;
        recording.over(&mut socket, &id).await;
        about(recording, &id).await;
        socket.close().await;
    }, MORE_WORDS)
    .await;
}

#[tokio::test]
async fn ids_of_the_clients_own_what_is_kept_and_what_is_deleted() {
    is_the_same(async |recording| {
        let mut socket = recording.socket().await;
        let own = uuid::Uuid::new_v4().to_string();
        for number in 0..2 {
            let graph = recording.empty(number);
            recording.prompt_with(&graph, &json!({"prompt_id": own})).await;
            recording.over(&mut socket, &own).await;
            about(recording, &own).await;
        }
        let graph = recording.empty(2);
        let extra = json!({"extra_data": {"extra_pnginfo": {"workflow": {"id": "wf-1"}}, "job": "42",
            "api_key_comfy_org": "never-shown", "auth_token_comfy_org": "never-shown"}});
        let id = recording.prompt_with(&graph, &extra).await.expect("taken");
        recording.over(&mut socket, &id).await;
        about(recording, &id).await;
        recording.get("/history?max_items=1&offset=0").await;
        recording.get("/history?max_items=2").await;
        recording.get("/api/jobs?limit=2").await;
        recording
            .get("/api/jobs?limit=1&offset=1&sort_order=asc&status=failed")
            .await;
        recording.get("/api/jobs?status=completed&workflow_id=wf-1").await;
        for query in [
            "status=odd",
            "sort_by=odd",
            "sort_order=odd",
            "limit=odd",
            "limit=0",
            "offset=odd",
        ] {
            recording.get(&format!("/api/jobs?{query}")).await;
        }
        recording.post("/history", &json!({"delete": [id]})).await;
        recording.get(&format!("/history/{id}")).await;
        recording.get(&format!("/history/{own}")).await;
        recording.post("/api/history", &json!({"clear": true})).await;
        recording.get("/history").await;
        recording.get("/api/jobs").await;

        recording
            .post("/free", &json!({"unload_models": true, "free_memory": true}))
            .await;
        // Files of another number, and those that go with ComfyUI.
        let mut graph = recording.empty(4);
        graph["1"]["inputs"]["batch_size"] = json!(2);
        graph["3"] = json!({"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}});
        let id = recording.prompt(&graph).await;
        let heard = socket.over(&id).await;
        // Which output comes first is ComfyUI's choice.
        recording.note("messages", json!(heard.len()));
        about(recording, &id).await;
        socket.close().await;
    })
    .await;
}
