//! The client against a small registry on a real socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{Path, Query, State};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::*;
use crate::net::testing::serve;

/// How often a route was asked.
type Count = Arc<AtomicUsize>;

fn version(id: &str, version: &str, download: &str) -> Value {
    json!({
        "id": "7b1c", "node_id": id, "version": version, "downloadUrl": download, "changelog": "",
        "dependencies": ["color-matcher"], "deprecated": false, "status": "NodeVersionStatusActive",
    })
}

fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": "", "message": message}))).into_response()
}

async fn install(Path(id): Path<String>, Query(query): Query<HashMap<String, String>>) -> Response {
    let asked = query.get("version").map(String::as_str);
    let zip = "https://cdn.example.com/node.zip";
    let answer = match (id.to_lowercase().as_str(), asked) {
        ("comfyui-kjnodes", None | Some("1.1.7")) => version("comfyui-kjnodes", "1.1.7", zip),
        ("comfyui-kjnodes", Some("1.0.9")) => version("comfyui-kjnodes", "1.0.9", zip),
        ("comfyui-kjnodes", Some(_)) => return error(StatusCode::NOT_FOUND, "Node version not found"),
        ("file", _) => version("file", "1.0.0", "file:///etc/passwd"),
        ("none", _) => json!({"id": "7b1c", "version": "1.0.0"}),
        ("other", _) => version("another", "1.0.0", zip),
        ("older", _) => version("older", "0.9.0", zip),
        ("strange", _) => version("strange", "../1", zip),
        ("page", _) => return Html("<html>log in to the network</html>").into_response(),
        ("banned", _) => return error(StatusCode::FORBIDDEN, "Node banned"),
        ("down", _) => return error(StatusCode::INTERNAL_SERVER_ERROR, "Failed to get node version"),
        _ => return error(StatusCode::NOT_FOUND, "Node not found"),
    };
    Json(answer).into_response()
}

async fn versions(Path(id): Path<String>) -> Response {
    match id.as_str() {
        "comfyui-kjnodes" => {
            let versions = ["1.0.9", "1.0.10", "1.1.7", "1.1.0", "1.0.2", "0.9.0"];
            let versions =
                versions.map(|number| version("comfyui-kjnodes", number, "https://cdn.example.com/node.zip"));
            Json(Value::from(versions.to_vec())).into_response()
        }
        "empty" => Json(json!([])).into_response(),
        _ => error(StatusCode::NOT_FOUND, "Node not found"),
    }
}

async fn search(Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    let ids: &[&str] = match query["search"].as_str() {
        "comfyui-kjnode" => &["comfyui-gguf", "comfyui-kjnodes", "<b>"],
        _ => &[],
    };
    let nodes: Vec<_> = ids.iter().map(|id| json!({"id": id, "name": id})).collect();
    Json(json!({"limit": 20, "nodes": nodes, "page": 1, "total": nodes.len(), "totalPages": 1}))
}

async fn class(State(count): State<Count>, Path(class): Path<String>) -> Response {
    count.fetch_add(1, Ordering::SeqCst);
    match class.as_str() {
        "Image/Resize KJ?" => {
            Json(json!({"id": "comfyui-kjnodes", "latest_version": {"version": "1.1.7"}})).into_response()
        }
        "Bare" => Json(json!({"id": "bare"})).into_response(),
        "Strange" => Json(json!({"id": "../x"})).into_response(),
        "Down" => error(StatusCode::INTERNAL_SERVER_ERROR, ""),
        _ => error(StatusCode::NOT_FOUND, "No node found"),
    }
}

/// A registry under a path of its own, as a mirror may be, and how often it was asked for classes.
async fn registry() -> (Registry, Count) {
    let count = Count::default();
    let routes = Router::new()
        .route("/nodes/{id}/install", get(install))
        .route("/nodes/{id}/versions", get(versions))
        .route("/nodes/search", get(search))
        .route("/comfy-nodes/{class}/node", get(class))
        .with_state(Arc::clone(&count));
    let mirror = Router::new().nest("/mirror", routes);
    let url = serve(mirror).await + "/mirror/";
    (at(&url), count)
}

fn at(url: &str) -> Registry {
    let mut registry = Registry::new(&url.parse().unwrap());
    registry.retry = RetryPolicy::fixed(Duration::ZERO, 1);
    registry
}

async fn failed(registry: &Registry, id: &str, version: Option<&str>) -> (String, bool) {
    let error = registry.release(id, version).await.expect_err(id);
    let port = registry.url.port().unwrap().to_string();
    (error.to_string().replace(&port, "PORT"), error.may_pass())
}

#[tokio::test]
async fn a_release_has_its_archive() {
    let (registry, _) = registry().await;
    let release = registry.release("ComfyUI-KJNodes", Some("1.0.9")).await.unwrap();
    assert_eq!(
        release,
        Release {
            id: "comfyui-kjnodes".to_owned(),
            version: "1.0.9".to_owned(),
            download: "https://cdn.example.com/node.zip".parse().unwrap(),
            dependencies: vec!["color-matcher".to_owned()],
            deprecated: false,
        }
    );
    let newest = registry.release("comfyui-kjnodes", None).await.unwrap();
    assert_eq!(newest.version, "1.1.7");
}

#[tokio::test]
async fn what_the_registry_has_not_is_told_with_what_it_has() {
    let (registry, _) = registry().await;
    let mut told = Vec::new();
    for (id, version) in [
        ("comfyui-kjnodes", Some("1.1.8")),
        ("comfyui-kjnode", Some("1.1.7")),
        ("nothing-like-it", None),
        ("empty", Some("1.0.0")),
        ("empty", None),
        ("banned", None),
    ] {
        let (error, may_pass) = failed(&registry, id, version).await;
        assert!(!may_pass, "{error}");
        told.push(error);
    }
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn an_answer_that_is_none_is_told() {
    let (registry, _) = registry().await;
    let mut told = Vec::new();
    for (id, version) in [
        ("file", None),
        ("none", None),
        ("other", None),
        ("older", Some("1.0.0")),
        ("strange", None),
        ("page", None),
    ] {
        let (error, may_pass) = failed(&registry, id, version).await;
        assert!(!may_pass, "{error}");
        told.push(error);
    }
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_told_without_the_password() {
    let (registry, _) = registry().await;
    let (error, may_pass) = failed(&registry, "down", None).await;
    assert!(may_pass, "{error}");
    assert!(
        error.contains("it answers 500 Internal Server Error: Failed to get node version"),
        "{error}"
    );
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let (error, may_pass) = failed(&at(&format!("http://me:hunter2@127.0.0.1:{port}/")), "a", Some("1.0.0")).await;
    assert!(may_pass, "{error}");
    assert!(
        error.contains("http://127.0.0.1:PORT/ cannot be asked for `a`"),
        "{error}"
    );
    assert!(
        error.contains("COMFY_REGISTRY_URL") && !error.contains("hunter2"),
        "{error}"
    );
}

async fn pack_with_class(registry: &Registry, class: &str) -> Option<String> {
    registry.entry_with_class(class).await.map(|pack| pack.id)
}

#[tokio::test]
async fn a_class_leads_to_its_pack_and_is_asked_for_once() {
    let (registry, count) = registry().await;
    for _ in 0..2 {
        let found = registry.entry_with_class("Image/Resize KJ?").await.unwrap();
        assert_eq!(found.to_string(), "comfyui-kjnodes@1.1.7");
        assert_eq!(pack_with_class(&registry, "Bare").await.as_deref(), Some("bare"));
        assert_eq!(pack_with_class(&registry, "Unknown").await, None);
        assert_eq!(
            pack_with_class(&registry, "Strange").await,
            None,
            "an id that is none is not passed on"
        );
    }
    assert_eq!(count.load(Ordering::SeqCst), 4);
    for nothing in ["", &"x".repeat(LONGEST_CLASS + 1)] {
        assert_eq!(pack_with_class(&registry, nothing).await, None);
    }
    assert_eq!(count.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_registry_that_fails_is_left_alone_for_a_while() {
    let (registry, count) = registry().await;
    assert_eq!(pack_with_class(&registry, "Down").await, None);
    assert_eq!(pack_with_class(&registry, "Bare").await, None, "it is not asked");
    assert_eq!(count.load(Ordering::SeqCst), 1);
    registry.classes.lock().pause_ends = Some(Instant::now());
    assert_eq!(pack_with_class(&registry, "Bare").await.as_deref(), Some("bare"));
}
