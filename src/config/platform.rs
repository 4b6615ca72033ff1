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
    /// What is logged, as `tracing` reads it.
    pub log_filter: String,
    /// Whether somebody chose that, by any of its variables.
    pub log_filter_chosen: bool,
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

const RUNPOD_LOG_LEVEL: Variable = Variable {
    name: "RUNPOD_LOG_LEVEL",
    kind: "NOTSET, TRACE, DEBUG, INFO, WARN or ERROR",
    default: None,
    example: "INFO",
    meaning: "As RunPod's Python SDK takes it: what the worker and ComfyUI log; `NOTSET`: nothing. `LOG_LEVEL` overrides it.",
    secret: false,
};
const RUNPOD_DEBUG_LEVEL: Variable = Variable {
    name: "RUNPOD_DEBUG_LEVEL",
    kind: "NOTSET, TRACE, DEBUG, INFO, WARN or ERROR",
    default: None,
    example: "DEBUG",
    meaning: "The older name of `RUNPOD_LOG_LEVEL`, which overrides it.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[
    &RUNPOD_POD_ID,
    &RUNPOD_ENDPOINT_ID,
    &SERVE_API_LOCALLY,
    &LOG_LEVEL,
    &RUNPOD_LOG_LEVEL,
    &RUNPOD_DEBUG_LEVEL,
];

#[derive(Deserialize, Default)]
struct Raw {
    runpod_pod_id: Option<String>,
    runpod_endpoint_id: Option<String>,
    serve_api_locally: Option<String>,
    log_level: Option<String>,
    runpod_log_level: Option<String>,
    runpod_debug_level: Option<String>,
}

/// A level as RunPod's SDK names it, as a filter. Below INFO it is the worker and `ComfyUI` that say more, not the
/// libraries under them.
pub fn sdk_log_filter(text: &str) -> Result<String, String> {
    match text.to_ascii_uppercase().as_str() {
        "NOTSET" => Ok("off".to_owned()),
        level @ ("TRACE" | "DEBUG") => Ok(format!("info,qwen_image_worker={level},comfyui={level}")),
        level @ ("INFO" | "WARN" | "ERROR") => Ok(level.to_owned()),
        _ => Err("is none of NOTSET, TRACE, DEBUG, INFO, WARN, ERROR".to_owned()),
    }
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<Platform> {
    let raw: Raw = reader.raw(vars);
    let pod_id = reader.optional(&RUNPOD_POD_ID, raw.runpod_pod_id, text);
    let endpoint_id = reader.optional(&RUNPOD_ENDPOINT_ID, raw.runpod_endpoint_id, text);
    let serve_api_locally = reader.value(&SERVE_API_LOCALLY, raw.serve_api_locally, boolean);
    let own_level = raw.log_level.is_some();
    let log_filter = reader.value(&LOG_LEVEL, raw.log_level, |text| {
        tracing_subscriber::EnvFilter::try_new(text)
            .map(|_| text.to_owned())
            .map_err(|error| format!("is no log filter ({error})"))
    });
    let queue = runpod::read(reader, vars, pod_id.as_ref().and_then(Option::as_deref));
    let sdk_log_level = reader.optional(&RUNPOD_LOG_LEVEL, raw.runpod_log_level, sdk_log_filter);
    let sdk_debug_level = reader.optional(&RUNPOD_DEBUG_LEVEL, raw.runpod_debug_level, sdk_log_filter);
    let (log_filter, sdk_level) = (log_filter?, sdk_log_level?.or(sdk_debug_level?));
    let log_filter_chosen = own_level || sdk_level.is_some();
    Some(Platform {
        pod_id: pod_id?,
        endpoint_id: endpoint_id?,
        queue: queue?,
        serve_api_locally: serve_api_locally?,
        log_filter: sdk_level.filter(|_| !own_level).unwrap_or(log_filter),
        log_filter_chosen,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(vars: &[(&str, &str)]) -> Option<(String, bool)> {
        let vars: Vec<_> = vars
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let platform = read(&mut Reader::default(), &vars)?;
        tracing_subscriber::EnvFilter::try_new(&platform.log_filter).unwrap();
        Some((platform.log_filter, platform.log_filter_chosen))
    }

    #[test]
    fn the_sdks_levels_hold_unless_ours_is_set() {
        let chosen = |filter: &str| Some((filter.to_owned(), true));
        assert_eq!(filter(&[]), Some(("info".to_owned(), false)));
        assert_eq!(filter(&[("RUNPOD_LOG_LEVEL", "warn")]), chosen("WARN"));
        assert_eq!(
            filter(&[("RUNPOD_DEBUG_LEVEL", "DEBUG")]),
            chosen("info,qwen_image_worker=DEBUG,comfyui=DEBUG")
        );
        assert_eq!(
            filter(&[("RUNPOD_DEBUG_LEVEL", "DEBUG"), ("RUNPOD_LOG_LEVEL", "NOTSET")]),
            chosen("off")
        );
        assert_eq!(
            filter(&[("RUNPOD_LOG_LEVEL", "ERROR"), ("LOG_LEVEL", "debug")]),
            chosen("debug")
        );
        assert_eq!(filter(&[("RUNPOD_LOG_LEVEL", "5")]), None);
    }
}
