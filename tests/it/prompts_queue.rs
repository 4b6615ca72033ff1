//! ComfyUI's own API on our queue, where no ComfyUI is: prompts wait, and each owner sees and does what is its own.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Worker, http};

/// Where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";

/// Asks with a key; the status and the answer, null where it is empty.
async fn ask(worker: &Worker, key: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let request = http().request(method, format!("{}{path}", worker.url)).bearer_auth(key);
    let request = if body.is_null() {
        request
    } else {
        request.header("content-type", "text/plain").body(body.to_string())
    };
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("a body");
    let body = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    };
    (status, body)
}

async fn get(worker: &Worker, key: &str, path: &str) -> Value {
    let (status, body) = ask(worker, key, Method::GET, path, &Value::Null).await;
    assert_eq!(status, 200, "{path}: {body:#}");
    body
}

async fn post(worker: &Worker, key: &str, path: &str, body: &Value) -> Value {
    let (status, body) = ask(worker, key, Method::POST, path, body).await;
    assert_eq!(status, 200, "{path}: {body:#}");
    body
}

fn prompt(client: &str) -> Value {
    json!({
        "prompt": {
            "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 1}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
        },
        "client_id": client,
        "extra_data": {"api_key_comfy_org": "key-of-comfy", "auth_token_comfy_org": "token-of-comfy", "a": 1},
    })
}

async fn send(worker: &Worker, key: &str, body: &Value) -> String {
    let answer = post(worker, key, "/prompt", body).await;
    answer["prompt_id"].as_str().expect("an id").to_owned()
}

/// The ids that wait, as this key sees them.
async fn pending(worker: &Worker, key: &str) -> Vec<String> {
    let queue = get(worker, key, "/queue").await;
    assert_eq!(queue["queue_running"], json!([]));
    let pending = queue["queue_pending"].as_array().expect("a list");
    pending
        .iter()
        .map(|tuple| tuple[1].as_str().expect("an id").to_owned())
        .collect()
}

async fn worker() -> Worker {
    Worker::attached(NOWHERE, &[("API_KEY", "first, second"), ("QUEUE_LIMIT", "6")]).await
}

#[tokio::test]
async fn prompts_wait_in_their_order_and_show_no_keys() {
    let worker = worker().await;
    // As many as may be on their way to ComfyUI, which no other passes any more.
    for _ in 0..2 {
        let of_runpod = json!({"input": {"workflow": prompt("")["prompt"]}});
        post(&worker, "first", "/run", &of_runpod).await;
    }
    let answer = post(&worker, "first", "/api/prompt", &prompt("page")).await;
    assert_eq!(answer["node_errors"], json!({}));
    let number = answer["number"].as_i64().expect("a number");
    let mut at_the_front = prompt("page");
    at_the_front["front"] = json!(true);
    let front = post(&worker, "first", "/prompt", &at_the_front).await;
    assert!(front["number"].as_i64().is_some_and(|front| front < -number), "{front}");
    let queue = get(&worker, "first", "/api/queue").await;
    assert!(!queue.to_string().contains("of-comfy"), "{queue:#}");
    let pending = &queue["queue_pending"];
    assert_eq!(pending[0][1], front["prompt_id"]);
    assert_eq!(pending[1][1], answer["prompt_id"]);
    assert_eq!(pending[1][0], number);
    assert_eq!(pending[1][2], prompt("page")["prompt"]);
    assert_eq!(pending[1][3]["client_id"], "page");
    assert_eq!(pending[1][3]["a"], 1);
    assert!(pending[1][3]["create_time"].is_u64());
    assert_eq!(
        get(&worker, "second", "/prompt").await,
        json!({"exec_info": {"queue_remaining": 4}})
    );
    let jobs = get(&worker, "first", "/api/jobs?status=pending&sort_order=asc&limit=1").await;
    assert_eq!(jobs["jobs"][0]["id"], answer["prompt_id"]);
    assert_eq!(jobs["jobs"][0]["status"], "pending");
    assert_eq!(
        jobs["pagination"],
        json!({"offset": 0, "limit": 1, "total": 2, "has_more": true})
    );
    let (status, missing) = ask(&worker, "first", Method::GET, "/api/jobs/x", &Value::Null).await;
    assert_eq!((status, missing), (404, json!({"error": "Job not found"})));
}

#[tokio::test]
async fn nobody_sees_or_ends_what_is_of_another_key_or_api() {
    let worker = worker().await;
    let own = send(&worker, "first", &prompt("page")).await;
    let other = send(&worker, "second", &prompt("page")).await;
    let of_runpod = json!({"input": {"workflow": prompt("")["prompt"]}});
    let of_runpod = post(&worker, "first", "/run", &of_runpod).await["id"].clone();
    let of_runpod = of_runpod.as_str().expect("an id");
    assert_eq!(pending(&worker, "first").await, [own.as_str()]);
    assert_eq!(pending(&worker, "second").await, [other.as_str()]);
    for id in [other.as_str(), of_runpod] {
        let (status, _) = ask(&worker, "first", Method::GET, &format!("/api/jobs/{id}"), &Value::Null).await;
        assert_eq!(status, 404);
        let cancelled = post(&worker, "first", &format!("/api/jobs/{id}/cancel"), &Value::Null).await;
        assert_eq!(cancelled, json!({"cancelled": false}));
        let (status, taken) = ask(&worker, "first", Method::POST, "/prompt", &{
            let mut body = prompt("page");
            body["prompt_id"] = json!(id);
            body
        })
        .await;
        assert_eq!(
            (status, taken["error"]["type"].as_str()),
            (400, Some("invalid_prompt_id"))
        );
    }
    let ids = json!({"job_ids": [other, of_runpod]});
    assert_eq!(
        post(&worker, "first", "/api/jobs/cancel", &ids).await,
        json!({"cancelled": false})
    );
    post(&worker, "first", "/queue", &json!({"delete": [other, of_runpod]})).await;
    post(
        &worker,
        "first",
        "/queue",
        &json!({"clear": true, "client_id": "another"}),
    )
    .await;
    assert_eq!(pending(&worker, "first").await, [own.as_str()]);
    post(&worker, "first", "/interrupt", &Value::Null).await;
    post(&worker, "first", "/queue", &json!({"clear": true})).await;
    assert_eq!(pending(&worker, "first").await, Vec::<String>::new());
    assert_eq!(pending(&worker, "second").await, [other.as_str()]);
    let status = get(&worker, "first", &format!("/status/{of_runpod}")).await;
    assert_eq!(status["status"], "IN_QUEUE");
    // What never began is remembered by nobody.
    assert_eq!(get(&worker, "first", &format!("/history/{own}")).await, json!({}));
    assert_eq!(get(&worker, "first", "/history").await, json!({}));
    assert_eq!(get(&worker, "first", "/api/jobs").await["pagination"]["total"], 0);
    // Its id is its owner's to use again.
    let mut again = prompt("page");
    again["prompt_id"] = json!(own);
    let (status, taken) = ask(&worker, "second", Method::POST, "/prompt", &again).await;
    assert_eq!(
        (status, taken["error"]["message"].as_str()),
        (400, Some("prompt_id is taken"))
    );
    assert_eq!(send(&worker, "first", &again).await, own);
    let (status, _) = ask(&worker, "first", Method::POST, "/prompt", &again).await;
    assert_eq!(status, 400, "it waits");
    assert_eq!(pending(&worker, "first").await, [own.as_str()]);
}

#[tokio::test]
async fn limits_and_wrong_requests_are_told_in_comfyuis_shape() {
    let worker = worker().await;
    for body in [
        json!("rubbish"),
        json!({}),
        json!({"prompt": {"nodes": [], "links": []}}),
        json!([]),
    ] {
        for path in ["/prompt", "/api/prompt"] {
            let (status, said) = ask(&worker, "first", Method::POST, path, &body).await;
            assert_eq!(status, 400, "{said:#}");
            assert!(
                said["error"]["type"].is_string() && said["error"]["message"].is_string(),
                "{said:#}"
            );
            assert!(
                said["error"]["details"].is_string() && said["node_errors"].is_object(),
                "{said:#}"
            );
        }
    }
    for path in ["/queue", "/history", "/interrupt"] {
        let (status, said) = ask(&worker, "first", Method::POST, path, &json!([])).await;
        assert_eq!(status, 400);
        assert!(said["error"]["message"].is_string(), "{said:#}");
    }
    let (status, said) = ask(&worker, "third", Method::GET, "/queue", &Value::Null).await;
    assert_eq!(status, 401);
    assert!(said["error"]["message"].is_string(), "{said:#}");
    for _ in 0..6 {
        send(&worker, "first", &prompt("page")).await;
    }
    let (status, said) = ask(&worker, "first", Method::POST, "/prompt", &prompt("page")).await;
    assert_eq!(
        (status, said["error"]["type"].as_str()),
        (429, Some("busy")),
        "{said:#}"
    );
    let (status, said) = ask(&worker, "first", Method::PUT, "/queue", &Value::Null).await;
    assert_eq!(status, 405);
    assert_eq!(said["error"]["message"], "/queue takes GET or POST, not PUT");
}
