//! Jobs of Comfy API v2, what they were given and what they made outlive a worker that is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};
use reqwest::Method;
use serde_json::{Value, json};

use crate::durability::attached;
use crate::support::binary::Served;
use crate::support::comfy_v2::{ended, job, reference, submit, upload};
use crate::support::comfyui::Client;
use crate::support::{shared, text, until};

const FOLDER: &str = "v2-kills";
/// Jobs of each of three lives of the worker.
const JOBS: usize = 10;
const COLORS: [[u8; 3]; 5] = [[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0], [0, 250, 250]];
/// Which of them is deleted while jobs wait that need it.
const DELETED: usize = 4;

fn picture(color: [u8; 3]) -> Vec<u8> {
    let mut content = Cursor::new(Vec::new());
    let image = RgbImage::from_pixel(48, 32, Rgb(color));
    image.write_to(&mut content, ImageFormat::Png).expect("a PNG");
    content.into_inner()
}

/// Shows a picture again after a while, in a folder of its own: what is there is all that was ever saved for it.
fn graph(image: &Value, seed: usize) -> Value {
    json!({
        "0": {"class_type": "LoadImage", "inputs": {"image": image}},
        "1": {"class_type": "SlowProgress", "inputs": {
            "steps": 4, "ms_per_step": 40, "preview": false, "seed": seed, "image": ["0", 0]}},
        "2": {"class_type": "SaveImage", "inputs": {
            "images": ["1", 0], "filename_prefix": format!("{FOLDER}/{seed}/picture")}},
    })
}

/// What of an asset stays over a restart; links begin with another port then.
fn lasting(asset: &Value) -> Value {
    let names = [
        "id",
        "hash",
        "size_bytes",
        "content_type",
        "file_path",
        "created_at",
        "expires_at",
    ];
    names.iter().map(|name| asset[*name].clone()).collect()
}

/// All jobs by their pages, each with its status.
async fn listed(client: &Client) -> BTreeMap<String, String> {
    let (mut all, mut count, mut cursor) = (BTreeMap::new(), 0, String::new());
    loop {
        let page = client.get(&format!("/api/v2/jobs?limit=7{cursor}")).await.ok();
        for item in page["jobs"].as_array().expect("a list") {
            count += 1;
            all.insert(text(item, "id").to_owned(), text(item, "status").to_owned());
        }
        let next = text(&page, "next_cursor");
        if next.is_empty() {
            assert_eq!(all.len(), count, "a job is listed twice");
            return all;
        }
        let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
        cursor = format!("&cursor={next}");
    }
}

/// The bytes of an asset.
async fn content(client: &Client, id: &str) -> Vec<u8> {
    let request = client.request(Method::GET, &format!("/api/v2/assets/{id}/content"));
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{id}");
    answer.bytes().await.expect("its bytes").to_vec()
}

#[tokio::test]
async fn kills_lose_no_job_no_asset_and_no_output() {
    let shared = shared().await;
    let data = tempfile::tempdir().expect("a folder");
    let vars = attached(data.path(), &shared.comfy_url().await, &[("JOB_RETRIES", "10")]);
    let mut assets = Vec::new();
    // What was answered at the submit, with the key of the request.
    let mut jobs: Vec<(Value, String)> = Vec::new();
    let mut done: BTreeMap<String, Value> = BTreeMap::new();
    for life in 0..3 {
        let worker = Served::start(&vars).await;
        let client = Client::new(&worker.url);
        if life == 0 {
            for color in COLORS {
                assets.push(upload(&client, "same-name.png", picture(color)).await);
            }
        }
        for _ in 0..JOBS {
            let (number, key) = (jobs.len(), uuid::Uuid::new_v4().to_string());
            let of_deleted = life == 2 && number % COLORS.len() == DELETED;
            let asset = if of_deleted {
                &assets[0]
            } else {
                &assets[number % COLORS.len()]
            };
            let body = json!({"workflow": graph(&reference(text(asset, "id")), number), "metadata": {"number": number.to_string()}});
            let said = submit(&client, &body, Some(&key)).await;
            assert_eq!(said.status, 201, "{:#}", said.body);
            jobs.push((said.body, key));
        }
        if life == 1 {
            let path = format!("/api/v2/assets/{}", text(&assets[DELETED], "id"));
            assert_eq!(client.said(client.request(Method::DELETE, &path)).await.status, 204);
        }
        until("some are done", async || {
            let count = listed(&client)
                .await
                .into_values()
                .filter(|status| status == "succeeded")
                .count();
            count >= (life + 1) * 4
        })
        .await;
        for (id, status) in listed(&client).await {
            if status == "succeeded" {
                done.insert(id.clone(), job(&client, &id).await["outputs"].clone());
            }
        }
        worker.kill().await;
    }

    let worker = Served::start(&vars).await;
    let client = Client::new(&worker.url);
    let ids: BTreeSet<String> = jobs.iter().map(|(job, _)| text(job, "id").to_owned()).collect();
    let known = listed(&client).await;
    assert_eq!(known.into_keys().collect::<BTreeSet<_>>(), ids);
    for (told, key) in &jobs {
        let now = job(&client, text(told, "id")).await;
        for name in ["id", "created_at", "expires_at", "urls", "metadata"] {
            assert_eq!(now[name], told[name], "{name}");
        }
        let body = json!({"workflow": graph(&reference(text(&assets[0], "id")), 0)});
        let again = submit(&client, &body, Some(key)).await;
        let code = text(&again.body["error"], "code");
        assert_eq!((again.status, code), (422, "idempotency_key_reuse"), "{:#}", again.body);
    }
    for (number, asset) in assets.iter().enumerate() {
        let id = text(asset, "id");
        let now = client.get(&format!("/api/v2/assets/{id}")).await;
        if number == DELETED {
            assert_eq!(now.status, 404, "{:#}", now.body);
        } else {
            assert_eq!(lasting(&now.ok()), lasting(asset));
            assert!(content(&client, id).await == picture(COLORS[number]), "other bytes");
        }
    }

    let mut outputs = BTreeSet::new();
    for (number, (told, _)) in jobs.iter().enumerate() {
        let end = ended(&client, text(told, "id")).await;
        assert_eq!(text(&end, "status"), "succeeded", "{number}: {end:#}");
        let made = end["outputs"].as_array().expect("outputs");
        assert_eq!(made.len(), 1, "{end:#}");
        let id = text(&made[0], "id");
        assert!(outputs.insert(id.to_owned()), "an id twice: {id}");
        if let Some(before) = done.get(text(told, "id")) {
            assert_eq!(before[0]["id"], id, "{number}");
        }
        let bytes = content(&client, id).await;
        assert_eq!(Some(bytes.len() as u64), made[0]["size_bytes"].as_u64());
        let of_deleted = number >= 2 * JOBS && number % COLORS.len() == DELETED;
        let color = COLORS[if of_deleted { 0 } else { number % COLORS.len() }];
        let pixels = image::load_from_memory(&bytes).expect("a picture").to_rgb8();
        assert_eq!(pixels.get_pixel(1, 1).0, color, "{number} shows another asset");
    }
    // Not one was made twice.
    let saved = (0..jobs.len()).map(|number| {
        let folder = shared.output().join(FOLDER).join(number.to_string());
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    });
    assert_eq!(saved.collect::<Vec<_>>(), vec![1; jobs.len()]);
    // Nobody needs those bytes any more.
    let gone = format!("/api/v2/assets/by-hash/{}", text(&assets[DELETED], "hash"));
    assert_eq!(client.said(client.request(Method::HEAD, &gone)).await.status, 404);
    worker.kill().await;
}
