//! A real browser: Debian's Chromium, or one from npm where that is not there. Tests steer it with scripts of their own, which
//! import what they share from `browser.mjs`.

use std::path::Path;

use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::clients::node_files;
use super::{Worker, fresh_data};

/// A browser, what steers it, and what looks for whom a page cannot be used by.
const PACKAGES: &str = "playwright-core@1.65.1 @sparticuz/chromium@153.0.0 axe-core@4.14.1";
/// What scripts share.
const SHARED: &[(&str, &str)] = &[("browser.mjs", include_str!("../pages/browser.mjs"))];

/// A pack with a script for ComfyUI's page, and a route that the script asks.
const PACK: &[(&str, &str)] = &[
    ("__init__.py", include_str!("packs/qiw-page/__init__.py")),
    ("web/greet.js", include_str!("packs/qiw-page/web/greet.js")),
];

/// The worker whose pages are looked at, by one test at a time: ComfyUI's own page shows what everybody queues, and a
/// browser takes all cores that there are.
pub(crate) async fn with_pages() -> MutexGuard<'static, Worker> {
    static WORKER: OnceCell<Mutex<Worker>> = OnceCell::const_new();
    let worker = WORKER.get_or_init(|| async {
        let (data, vars) = fresh_data();
        let packs = data.path().join("base/custom_nodes");
        for (name, content) in PACK {
            let file = packs.join("qiw-page").join(name);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            std::fs::write(file, content).expect("a file");
        }
        // ComfyUI's page reads no definition of nodes that holds what JSON lacks.
        let nodes = packs.join("worker_test_nodes.py");
        let text = std::fs::read_to_string(&nodes).expect("a file");
        std::fs::write(nodes, text.replace("        ShowNan,\n", "")).expect("a file");
        let mut worker = Worker::start(vars).await;
        worker.data = Some(data);
        worker.ready().await;
        Mutex::new(worker)
    });
    worker.await.lock().await
}

/// Runs a script with a browser; gives the JSON that it prints. `name` is the script's own.
pub(crate) async fn browse(name: &str, script: &str, plan: Value) -> Value {
    browse_with(&[], name, script, plan).await
}

/// The same with more files beside the script, which it imports.
pub(crate) async fn browse_with(more: &[(&str, &str)], name: &str, script: &str, mut plan: Value) -> Value {
    // Where a step fails, a picture of each page is left there.
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    plan["pictures"] = pictures.display().to_string().into();
    let files: Vec<_> = SHARED.iter().chain(more).copied().collect();
    node_files(PACKAGES, &files, script, &plan).await
}

/// What the browser's pages complained of.
pub(crate) fn complaints(seen: &Value) -> Vec<&str> {
    let complaints = seen["complaints"].as_array().expect("a list").iter();
    complaints.filter_map(Value::as_str).collect()
}

/// Where a picture for the documentation goes, when they are made anew: `PICTURES=1 cargo test --test it page play`.
pub(crate) fn kept_picture(name: &str) -> Option<String> {
    std::env::var_os("PICTURES").map(|_| format!("{}/docs/{name}.webp", env!("CARGO_MANIFEST_DIR")))
}
