//! The routes of ComfyUI's API that it answers itself, each at the root and under `/api`.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::response::Response;
use axum::routing::{self, MethodRouter};

use super::{pass, upload};
use crate::dialect::schema::{FORM, Operation, Schema};
use crate::http::route::{Base, Route};
use crate::http::state::State;

/// Every route of ComfyUI's API that is passed on. What methods it has is for ComfyUI to say.
pub(in crate::http) const ROUTES: &[Route] = &[
    Route::new(
        &["POST"],
        "/upload/{kind}",
        "Puts an `image` or a `mask` into ComfyUI's input folder, as ComfyUI does it. The body is not held: of its size, ComfyUI's own limit counts (100 MB), not MAX_BODY_MB.",
        uploads,
        |_| routing::post(upload::upload),
    )
    .api(),
    passed("/object_info", "Every node class of ComfyUI."),
    passed("/object_info/{class}", "One node class."),
    passed("/models", "The folders of models."),
    passed("/models/{folder}", "The model files of a folder."),
    passed("/experiment/{*rest}", "The same for ComfyUI's page, with previews."),
    passed("/view_metadata/{folder}", "What a model file says of itself."),
    passed("/embeddings", "The embeddings."),
    passed("/system_stats", "ComfyUI's version and arguments, and the memory of its devices."),
    passed("/features", "What ComfyUI's server can do."),
    passed("/extensions", "The scripts of ComfyUI's page and of the node packs."),
    passed("/i18n", "The translations of node packs."),
    passed("/node_replacements", "Which classes take the place of older ones."),
    passed("/workflow_templates", "The workflows of node packs."),
    passed("/global_subgraphs", "The subgraphs of node packs."),
    passed("/global_subgraphs/{id}", "One of them."),
    passed("/users", "ComfyUI's users."),
    changed(&["GET", "POST"], "/settings", "The settings of ComfyUI's page."),
    changed(&["GET", "POST"], "/settings/{id}", "One setting."),
    passed("/userdata", "The files that ComfyUI's page saved, such as workflows."),
    changed(
        &["GET", "POST", "DELETE"],
        "/userdata/{*file}",
        "One of them; `%2F` in its name stays as it is.",
    ),
    Route::get(
        "/internal/{*rest}",
        "What ComfyUI's page asks of its server: its log, and the files of its folders.",
        answer,
        handler,
    ),
];

const fn passed(path: &'static str, meaning: &'static str) -> Route {
    changed(&["GET"], path, meaning)
}

const fn changed(methods: &'static [&'static str], path: &'static str, meaning: &'static str) -> Route {
    Route::new(methods, path, meaning, answer, handler).api()
}

fn answer() -> Operation {
    Operation::default().reply(200, "ComfyUI's answer.", "*/*", Schema::any())
}

fn uploads() -> Operation {
    let form = Schema::object()
        .needs("image", Schema::file())
        .takes("subfolder", Schema::text().or(""))
        .takes("type", Schema::one_of(["input", "temp", "output"]).or("input"))
        .takes("overwrite", Schema::one_of(["true", "false"]).or("false"))
        .takes(
            "original_ref",
            Schema::text().means("Of a mask: the picture that it is for, as JSON."),
        )
        .with("examples", serde_json::json!([{"image": "a.png"}]));
    answer().body(FORM, form)
}

fn handler(_: Base) -> MethodRouter<Arc<State>> {
    routing::any(listed)
}

async fn listed(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    pass(&state, request).await
}
