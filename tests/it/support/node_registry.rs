//! A registry of custom nodes on loopback, of the shape of the Comfy Registry: routes and fields as its API's description
//! has them, which comes with `comfy-cli` 1.23 (`command/generate/spec`), and as that and `comfyui-manager` 4.3 ask for
//! them (`registry/api.py`, `common/cnr_utils.py`). The packs lie in `packs/`.

use std::fs;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

use axum::extract::{Path as Segments, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use zip::write::SimpleFileOptions;

use super::RUNTIME;

/// The packs that have a folder.
pub(crate) const PACKS: [&str; 6] = [
    "qiw-exits",
    "qiw-greeting",
    "qiw-import-error",
    "qiw-install-script",
    "qiw-missing-package",
    "qiw-old-numpy",
];
/// A pack whose archive holds `../../escaped.py`.
pub(crate) const ESCAPES: &str = "qiw-escapes";
/// A pack whose archive holds a link to `/etc`.
pub(crate) const LINKS: &str = "qiw-links";
/// A pack whose archive is cut off.
pub(crate) const TORN: &str = "qiw-torn";

/// Which pack has which class.
const CLASSES: [(&str, &str); 6] = [
    ("QiwGreeting", "qiw-greeting"),
    ("QiwNeedsMore", "qiw-missing-package"),
    ("QiwOutdated", "qiw-import-error"),
    ("QiwExits", "qiw-exits"),
    ("QiwInstalled", "qiw-install-script"),
    ("QiwElsewhere", TORN),
];

/// The registry. It ends when it is dropped.
pub(crate) struct NodeRegistry {
    /// For `COMFY_REGISTRY_URL`.
    pub(crate) url: String,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Shared {
    url: String,
}

impl NodeRegistry {
    pub(crate) async fn start() -> Self {
        // Both live on beyond the test that starts them, where others use them too.
        let listener = RUNTIME.spawn(TcpListener::bind("127.0.0.1:0")).await;
        let listener = listener.expect("no panic").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Shared { url: url.clone() };
        let router = Router::new()
            .route("/nodes/{id}", get(node))
            .route("/nodes/{id}/install", get(install))
            .route("/nodes/{id}/versions", get(versions))
            .route("/nodes/{id}/versions/{version}", get(version))
            .route("/comfy-nodes/{class}/node", get(with_class))
            .route("/files/{id}/{file}", get(file))
            .with_state(shared);
        let mut serving = JoinSet::new();
        serving.spawn_on(
            async move { axum::serve(listener, router).await.expect("it serves") },
            RUNTIME.handle(),
        );
        Self { url, _serving: serving }
    }
}

/// The folder of a pack.
pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/support/packs")
        .join(name)
}

/// A digest over all files of all packs, and over what the git server makes of them.
pub(crate) fn digest_of_packs() -> String {
    let mut hash = Sha256::new();
    hash.update(include_bytes!("git_server.rs"));
    for (path, content) in PACKS.into_iter().flat_map(files) {
        hash.update(path);
        hash.update(content);
    }
    hex::encode(&hash.finalize()[..6])
}

/// The files of a pack, by name; none lie deeper.
fn files(name: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.file_type().expect("a type").is_file())
        .map(|entry| {
            let content = fs::read(entry.path()).expect("a file");
            (entry.file_name().into_string().expect("UTF-8"), content)
        })
        .collect();
    files.sort();
    files
}

/// A pack as the registry has it: its files at the top, as `comfy node publish` packs them.
pub(crate) fn archive(name: &str) -> Vec<u8> {
    let options = SimpleFileOptions::default();
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let mut put = |path: &str, content: &[u8]| {
        zip.start_file(path, options).expect("a name");
        zip.write_all(content).expect("memory");
    };
    match name {
        ESCAPES => {
            put("__init__.py", b"NODE_CLASS_MAPPINGS = {}\n");
            put("../../escaped.py", b"raise SystemExit\n");
        }
        LINKS => {
            put("__init__.py", b"NODE_CLASS_MAPPINGS = {}\n");
            zip.add_symlink("models", "/etc", options).expect("a link");
        }
        _ => {
            let name = if name == TORN { "qiw-greeting" } else { name };
            for (path, content) in files(name) {
                put(&path, &content);
            }
        }
    }
    let mut content = zip.finish().expect("memory").into_inner();
    if name == TORN {
        content.truncate(content.len() / 2);
    }
    content
}

/// The version of a pack; [`None`]: there is no such pack.
fn newest(id: &str) -> Option<String> {
    if [ESCAPES, LINKS, TORN].contains(&id) {
        return Some("1.0.0".to_owned());
    }
    let project: toml::Table =
        String::from_utf8(fs::read(PACKS.contains(&id).then(|| folder(id))?.join("pyproject.toml")).ok()?)
            .ok()?
            .parse()
            .ok()?;
    Some(project["project"]["version"].as_str()?.to_owned())
}

/// The API's `NodeVersion`.
fn node_version(shared: &Shared, id: &str, version: &str) -> Value {
    let requirements = fs::read_to_string(folder(id).join("requirements.txt")).unwrap_or_default();
    json!({
        "id": format!("{id}-{version}"),
        "node_id": id,
        "version": version,
        "createdAt": "2026-07-01T00:00:00Z",
        "changelog": "",
        "dependencies": requirements.lines().collect::<Vec<_>>(),
        "deprecated": false,
        "downloadUrl": format!("{}/files/{id}/{version}.zip", shared.url),
        "status": "NodeVersionStatusActive",
        "status_reason": "",
        "supported_os": null,
        "supported_accelerators": null,
        "supported_comfyui_version": "",
        "supported_comfyui_frontend_version": "",
    })
}

/// The API's `Node`.
fn described(shared: &Shared, id: &str) -> Option<Value> {
    let version = newest(id)?;
    Some(json!({
        "id": id,
        "name": id,
        "description": "A pack of the tests",
        "author": "",
        "license": "{}",
        "icon": "",
        "category": "",
        "repository": format!("https://git.example.com/packs/{id}"),
        "tags": [],
        "status": "NodeStatusActive",
        "latest_version": node_version(shared, id, &version),
        "publisher": {"id": "qiw", "name": "qiw"},
    }))
}

fn not_found(what: &str) -> Response {
    let body = json!({"message": what, "error": ""});
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// Ids are found in any spelling, and sent to their own.
async fn node(State(shared): State<Shared>, Segments(id): Segments<String>) -> Response {
    let lower = id.to_ascii_lowercase();
    match described(&shared, &id) {
        Some(node) => Json(node).into_response(),
        None if lower != id && newest(&lower).is_some() => Redirect::to(&format!("/nodes/{lower}")).into_response(),
        None => not_found("Node not found"),
    }
}

#[derive(serde::Deserialize)]
struct Wanted {
    version: Option<String>,
}

async fn install(
    State(shared): State<Shared>,
    Segments(id): Segments<String>,
    Query(wanted): Query<Wanted>,
) -> Response {
    match newest(&id) {
        Some(newest) if wanted.version.as_ref().is_none_or(|version| *version == newest) => {
            Json(node_version(&shared, &id, &newest)).into_response()
        }
        Some(_) => not_found("Node version not found"),
        None => not_found("Node not found"),
    }
}

async fn versions(State(shared): State<Shared>, Segments(id): Segments<String>) -> Response {
    match newest(&id) {
        Some(newest) => Json(json!([node_version(&shared, &id, &newest)])).into_response(),
        None => not_found("Node not found"),
    }
}

async fn version(State(shared): State<Shared>, Segments((id, version)): Segments<(String, String)>) -> Response {
    if newest(&id).as_ref() == Some(&version) {
        return Json(node_version(&shared, &id, &version)).into_response();
    }
    not_found("Node version not found")
}

async fn with_class(State(shared): State<Shared>, Segments(class): Segments<String>) -> Response {
    let known = CLASSES.iter().find(|(known, _)| *known == class);
    match known.and_then(|(_, id)| described(&shared, id)) {
        Some(node) => Json(node).into_response(),
        None => not_found("Node not found"),
    }
}

async fn file(Segments((id, file)): Segments<(String, String)>) -> Response {
    match newest(&id) {
        Some(version) if file == format!("{version}.zip") => archive(&id).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
