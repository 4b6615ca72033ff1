//! The one table of routes: the router, the README and the documentation are made from it.

use std::sync::Arc;

use axum::routing::{MethodRouter, delete, get, post};

use super::{State, own, routes};
use crate::dialect::edit_plus::schema as edit_plus;
use crate::dialect::gradio::schema as gradio;
use crate::dialect::kie::schema as kie;
use crate::dialect::openai::schema as openai;
use crate::dialect::runpod::schema as runpod;
use crate::dialect::schema::Operation;

/// Where the health check is always served.
pub const PING: &str = "/ping";
/// Where the routes are described, as JSON.
pub const DOCUMENT: &str = "/openapi.json";
/// Where they are described for people.
pub const DOCS: &str = "/docs";

/// Where a route is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// At the root.
    Root,
    /// Under [`V2`].
    V2,
}

/// What RunPod's clients put before the path. Any endpoint id will do: there is one worker here.
pub const V2: &str = "/v2/{endpoint_id}";

/// A route, for the table and for its documentation.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The HTTP methods.
    pub methods: &'static [&'static str],
    /// The path.
    pub path: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// Whether it is served under [`V2`] too.
    pub v2: bool,
    /// What it takes and answers.
    pub describe: fn() -> Operation,
    pub(super) handler: fn(Base) -> MethodRouter<Arc<State>>,
}

/// Every route we serve.
pub const ROUTES: &[Route] = &[
    Route {
        methods: &["POST"],
        path: "/runsync",
        meaning: "Run one job and answer with its result: `{\"input\": {\"workflow\": …}}` or `{\"input\": {\"prompt\": …}}`. `?wait=` (ms) limits the wait.",
        v2: true,
        describe: runpod::runsync,
        handler: |base| match base {
            Base::Root => post(routes::runpod::runsync),
            Base::V2 => post(routes::runpod::runsync_v2),
        },
    },
    Route {
        methods: &["POST"],
        path: "/run",
        meaning: "Take one job in and answer with its id at once.",
        v2: true,
        describe: runpod::run,
        handler: |_| post(routes::runpod::run),
    },
    Route {
        methods: &["GET", "POST"],
        path: "/status/{id}",
        meaning: "The job as it is: status, place in the queue, progress, output.",
        v2: true,
        describe: runpod::status,
        handler: |_| get(routes::runpod::status).post(routes::runpod::status),
    },
    Route {
        methods: &["GET"],
        path: "/status-sync/{id}",
        meaning: "The same at the job's end, or when `?wait=` (ms) is over.",
        v2: true,
        describe: runpod::status_sync,
        handler: |_| get(routes::runpod::status_sync),
    },
    Route {
        methods: &["GET", "POST"],
        path: "/stream/{id}",
        meaning: "The progress since the last time: each chunk is handed out once.",
        v2: true,
        describe: runpod::stream,
        handler: |_| get(routes::runpod::stream).post(routes::runpod::stream),
    },
    Route {
        methods: &["POST"],
        path: "/cancel/{id}",
        meaning: "Call the job off, queued or running.",
        v2: true,
        describe: runpod::cancel,
        handler: |_| post(routes::runpod::cancel),
    },
    Route {
        methods: &["POST"],
        path: "/retry/{id}",
        meaning: "Queue a job again that failed or ran out of time.",
        v2: true,
        describe: runpod::retry,
        handler: |_| post(routes::runpod::retry),
    },
    Route {
        methods: &["POST"],
        path: "/purge-queue",
        meaning: "Remove every queued job.",
        v2: true,
        describe: runpod::purge_queue,
        handler: |_| post(routes::runpod::purge_queue),
    },
    Route {
        methods: &["GET"],
        path: "/requests",
        meaning: "Jobs, newest first: `?status=FAILED&limit=20`.",
        v2: true,
        describe: || runpod::requests(routes::runpod::REQUESTS, routes::runpod::MOST_REQUESTS),
        handler: |_| get(routes::runpod::requests),
    },
    Route {
        methods: &["GET"],
        path: "/health",
        meaning: "Jobs by state, and where ComfyUI stands.",
        v2: true,
        describe: own::health,
        handler: |_| get(routes::health::health),
    },
    Route {
        methods: &["GET"],
        path: "/events/{id}",
        meaning: "The job's progress as server-sent events; the last one, `status`, holds the answer.",
        v2: false,
        describe: runpod::events,
        handler: |_| get(routes::events::events),
    },
    Route {
        methods: &["GET"],
        path: "/view",
        meaning: "The file that a result names: `?filename=&subfolder=&type=`.",
        v2: false,
        describe: own::view,
        handler: |_| get(routes::view::view),
    },
    Route {
        methods: &["GET"],
        path: "/files/{job}/{index}/{name}",
        meaning: "A file of a job, by the link that an answer holds. The link's signature takes the place of a key.",
        v2: false,
        describe: own::file,
        handler: |_| get(routes::files::file),
    },
    Route {
        methods: &["POST"],
        path: "/v1/images/generations",
        meaning: "OpenAI's Images API: pictures from text, or from text and `image`. JSON or a form; `stream` for events.",
        v2: false,
        describe: openai::generations,
        handler: |_| post(routes::openai::generations),
    },
    Route {
        methods: &["POST"],
        path: "/v1/images/edits",
        meaning: "Pictures from one to three pictures and text, with `mask` only where that is transparent.",
        v2: false,
        describe: openai::edits,
        handler: |_| post(routes::openai::edits),
    },
    Route {
        methods: &["POST"],
        path: "/v1/images/variations",
        meaning: "Pictures like a picture.",
        v2: false,
        describe: openai::variations,
        handler: |_| post(routes::openai::variations),
    },
    Route {
        methods: &["GET"],
        path: "/v1/models",
        meaning: "The models that OpenAI's API takes.",
        v2: false,
        describe: openai::models,
        handler: |_| get(routes::openai::models),
    },
    Route {
        methods: &["POST"],
        path: "/api/v1/qwen/generate",
        meaning: "KIE's tasks: take one in and answer with its `taskId`.",
        v2: false,
        describe: kie::generate,
        handler: |_| post(routes::kie::generate),
    },
    Route {
        methods: &["GET"],
        path: "/api/v1/qwen/record-info",
        meaning: "The task as it is: `?taskId=`.",
        v2: false,
        describe: kie::record_info,
        handler: |_| get(routes::kie::record_info),
    },
    Route {
        methods: &["GET"],
        path: "/edit",
        meaning: "The Edit Plus API: what it is. All of it is served at the root of `EDIT_PORT` too.",
        v2: false,
        describe: edit_plus::about,
        handler: |_| get(routes::edit_plus::about),
    },
    Route {
        methods: &["POST"],
        path: "/edit/edit-image",
        meaning: "Edit one to three images, named by URL: answers with the job's id.",
        v2: false,
        describe: edit_plus::edit_image,
        handler: |_| post(routes::edit_plus::edit_image),
    },
    Route {
        methods: &["GET"],
        path: "/edit/status/{id}",
        meaning: "How far the job is, and where its picture is.",
        v2: false,
        describe: edit_plus::status,
        handler: |_| get(routes::edit_plus::status),
    },
    Route {
        methods: &["GET"],
        path: "/edit/download/{id}",
        meaning: "The picture.",
        v2: false,
        describe: edit_plus::download,
        handler: |_| get(routes::edit_plus::download),
    },
    Route {
        methods: &["GET"],
        path: "/edit/jobs",
        meaning: "The jobs of the Edit Plus API.",
        v2: false,
        describe: edit_plus::jobs,
        handler: |_| get(routes::edit_plus::jobs),
    },
    Route {
        methods: &["DELETE"],
        path: "/edit/jobs/{id}",
        meaning: "Call the job off and remove it with its files.",
        v2: false,
        describe: edit_plus::delete,
        handler: |_| delete(routes::edit_plus::delete),
    },
    Route {
        methods: &["GET"],
        path: "/edit/debug/files",
        meaning: "The files in the output folder.",
        v2: false,
        describe: edit_plus::debug_files,
        handler: |_| get(routes::edit_plus::debug_files),
    },
    Route {
        methods: &["GET"],
        path: "/edit/debug/job/{id}",
        meaning: "Everything about one job.",
        v2: false,
        describe: edit_plus::debug_job,
        handler: |_| get(routes::edit_plus::debug_job),
    },
    Route {
        methods: &["GET"],
        path: PING,
        meaning: "The health check: 204 while ComfyUI starts, 200 when jobs can run, 503 when ComfyUI cannot be started or was suspended, and while the worker stops.",
        v2: false,
        describe: own::ping,
        handler: |_| get(routes::health::ping),
    },
    Route {
        methods: &["GET"],
        path: "/config",
        meaning: "Gradio: what a client asks for first, so `Client.connect(\"http://HOST:PORT\")` finds `/infer`.",
        v2: false,
        describe: gradio::config,
        handler: |_| get(routes::gradio::config),
    },
    Route {
        methods: &["GET"],
        path: "/gradio_api/info",
        meaning: "Gradio: the parameters of `/infer`.",
        v2: false,
        describe: gradio::info,
        handler: |_| get(routes::gradio::info),
    },
    Route {
        methods: &["GET"],
        path: "/gradio_api/heartbeat/{session_hash}",
        meaning: "Gradio: a stream that tells a client that the worker is alive.",
        v2: false,
        describe: gradio::heartbeat,
        handler: |_| get(routes::gradio::heartbeat),
    },
    Route {
        methods: &["POST"],
        path: "/gradio_api/queue/join",
        meaning: "Gradio: `{\"data\": [prompt, seed, …], \"session_hash\": …}` joins the queue; answers `event_id`, which is the job's id.",
        v2: false,
        describe: gradio::join,
        handler: |_| post(routes::gradio::join),
    },
    Route {
        methods: &["GET"],
        path: "/gradio_api/queue/data",
        meaning: "Gradio: the events of a session, `?session_hash=`. A client that leaves cancels its jobs.",
        v2: false,
        describe: gradio::data,
        handler: |_| get(routes::gradio::data),
    },
    Route {
        methods: &["POST"],
        path: "/gradio_api/cancel",
        meaning: "Gradio: call an event off.",
        v2: false,
        describe: gradio::cancel,
        handler: |_| post(routes::gradio::cancel),
    },
    Route {
        methods: &["POST"],
        path: "/gradio_api/reset",
        meaning: "Gradio: what clients send after a cancel; there is nothing to do.",
        v2: false,
        describe: gradio::reset,
        handler: |_| post(routes::gradio::reset),
    },
    Route {
        methods: &["POST"],
        path: "/gradio_api/call/infer",
        meaning: "Gradio, for curl: `{\"data\": [prompt, seed, …]}`; answers `event_id`.",
        v2: false,
        describe: gradio::call,
        handler: |_| post(routes::gradio::call),
    },
    Route {
        methods: &["POST"],
        path: "/gradio_api/call/v2/infer",
        meaning: "The same, with values by name: `{\"prompt\": …, \"seed\": …}`.",
        v2: false,
        describe: gradio::named_call,
        handler: |_| post(routes::gradio::named_call),
    },
    Route {
        methods: &["GET"],
        path: "/gradio_api/call/infer/{event_id}",
        meaning: "Gradio, for curl: the result as a server-sent event.",
        v2: false,
        describe: gradio::call_result,
        handler: |_| get(routes::gradio::call_result),
    },
    Route {
        methods: &["GET"],
        path: DOCUMENT,
        meaning: "These routes as an OpenAPI 3.1 document.",
        v2: false,
        describe: own::document,
        handler: |_| get(routes::docs::document),
    },
    Route {
        methods: &["GET"],
        path: DOCS,
        meaning: "The same as a page for people.",
        v2: false,
        describe: own::page,
        handler: |_| get(routes::docs::page),
    },
];

/// A path that is served.
#[derive(Debug, Clone)]
pub(super) struct Served {
    /// The path with what stands before it.
    pub(super) path: String,
    /// What stands before it.
    pub(super) base: Base,
    /// The route.
    pub(super) route: &'static Route,
}

/// Every path that is served: the router and the documentation are made from these. The health check has a path of its
/// own beside [`PING`], to which the route of that path gives way.
pub(super) fn served(health_path: &str) -> Vec<Served> {
    let mut served = Vec::new();
    for route in ROUTES {
        let takes_over = route.path == PING && health_path != PING;
        let gives_way = health_path == route.path && route.path != PING && route.methods.contains(&"GET");
        let base = Base::Root;
        if !gives_way {
            let path = route.path.to_owned();
            served.push(Served { path, base, route });
        }
        if takes_over {
            let path = health_path.to_owned();
            served.push(Served { path, base, route });
        }
        if route.v2 {
            let (path, base) = (format!("{V2}{}", route.path), Base::V2);
            served.push(Served { path, base, route });
        }
    }
    served
}

impl Route {
    /// `GET, POST /status/{id}`
    fn name(&self) -> String {
        format!("{} {}", self.methods.join(", "), self.path)
    }
}

/// The routes as a Markdown table, as the README holds it.
pub fn routes_markdown() -> String {
    use std::fmt::Write as _;
    let mut text = String::from("| route | what it does |\n| --- | --- |\n");
    for route in ROUTES {
        let _ = writeln!(text, "| `{}` | {} |", route.name(), route.meaning);
    }
    let only_root: Vec<String> = ROUTES
        .iter()
        .filter(|route| !route.v2)
        .map(|route| format!("`{}`", route.path))
        .collect();
    let _ = write!(
        text,
        "\nAll but {} are served under `{V2}` too, with any id, as RunPod's clients ask for them.\n",
        only_root.join(", ")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_lists_every_route() {
        let page = include_str!("../../README.md");
        assert!(
            page.contains(&routes_markdown()),
            "README.md is out of date; its table must read:\n{}",
            routes_markdown()
        );
    }
}
