//! Where we run: RunPod or elsewhere.

use serde::Deserialize;

use super::runpod::{self, RunpodConfig};
use super::variable::{Reader, Variable, boolean, text};

/// What RunPod's own variables tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// The pod's id, set on every RunPod machine.
    pub pod_id: Option<String>,
    /// The serverless endpoint's id.
    pub endpoint_id: Option<String>,
    /// The platform's job queue, where there is one.
    pub queue: Option<RunpodConfig>,
    /// On RunPod: serve the HTTP API instead of taking jobs from the queue.
    pub serve_api_locally: bool,
    /// The log filter, when [`Platform::log_filter`]'s variable is set.
    pub log_filter: String,
}

impl Platform {
    /// The queue to take jobs from, unless the HTTP API is served instead.
    pub fn job_queue(&self) -> Option<&RunpodConfig> {
        self.queue.as_ref().filter(|_| !self.serve_api_locally)
    }

    /// Whether this machine is RunPod's.
    pub fn on_runpod(&self) -> bool {
        self.pod_id.is_some() || self.endpoint_id.is_some() || self.queue.is_some()
    }
}

const RUNPOD_POD_ID: Variable = Variable {
    name: "RUNPOD_POD_ID",
    kind: "text",
    default: None,
    example: "k3xv0bq1",
    meaning: "Set by RunPod: the pod's id.",
    secret: false,
};
const RUNPOD_ENDPOINT_ID: Variable = Variable {
    name: "RUNPOD_ENDPOINT_ID",
    kind: "text",
    default: None,
    example: "abc123",
    meaning: "Set by RunPod: the serverless endpoint's id.",
    secret: false,
};
const SERVE_API_LOCALLY: Variable = Variable {
    name: "SERVE_API_LOCALLY",
    kind: "true or false",
    default: Some("false"),
    example: "true",
    meaning: "On RunPod: serve the HTTP API instead of taking jobs from the queue. Elsewhere the API is always served.",
    secret: false,
};
const LOG_LEVEL: Variable = Variable {
    name: "LOG_LEVEL",
    kind: "trace, debug, info, warn or error, or a filter",
    default: Some("info"),
    example: "debug,comfyui=warn",
    meaning: "What we log; a filter as tracing reads it (`target=level,…`). ComfyUI's own lines have the target `comfyui`.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[&RUNPOD_POD_ID, &RUNPOD_ENDPOINT_ID, &SERVE_API_LOCALLY, &LOG_LEVEL];

#[derive(Deserialize, Default)]
struct Raw {
    runpod_pod_id: Option<String>,
    runpod_endpoint_id: Option<String>,
    serve_api_locally: Option<String>,
    log_level: Option<String>,
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<Platform> {
    let raw: Raw = reader.raw(vars);
    let pod_id = reader.optional(&RUNPOD_POD_ID, raw.runpod_pod_id, text);
    let endpoint_id = reader.optional(&RUNPOD_ENDPOINT_ID, raw.runpod_endpoint_id, text);
    let serve_api_locally = reader.value(&SERVE_API_LOCALLY, raw.serve_api_locally, boolean);
    let log_filter = reader.value(&LOG_LEVEL, raw.log_level, |text| {
        tracing_subscriber::EnvFilter::try_new(text)
            .map(|_| text.to_owned())
            .map_err(|error| format!("is no log filter ({error})"))
    });
    let queue = runpod::read(reader, vars, pod_id.as_ref().and_then(Option::as_deref));
    Some(Platform {
        pod_id: pod_id?,
        endpoint_id: endpoint_id?,
        queue: queue?,
        serve_api_locally: serve_api_locally?,
        log_filter: log_filter?,
    })
}
