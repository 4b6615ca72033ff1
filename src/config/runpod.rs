//! Where we run, RunPod or elsewhere, and RunPod's job queue, as the platform describes them in the environment.

use std::path::PathBuf;
use std::time::Duration;

use super::retired::PROGRESS_INTERVAL_MS;
use super::variable::{
    Reader, Secret, Variable, listed, milliseconds, parsed, path, seconds, secret, switch, text, web_address, whole,
};

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
    /// What is run before the first job where no file says so.
    pub warm_up: WarmUpChoice,
    /// What is logged, as `tracing` reads it.
    pub log_filter: String,
    /// Whether somebody chose that, by any of its variables.
    pub log_filter_chosen: bool,
}

/// What a worker runs of itself before its first job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WarmUpChoice {
    /// On RunPod, the usual template, where its models are there.
    Auto,
    /// Nothing.
    Off,
    /// This template.
    Template(String),
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

/// The platform's job queue, and how this worker takes from it. Addresses hold keys of the platform's, so they are
/// secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunpodConfig {
    /// Where jobs are taken; `$ID` stands for the worker.
    pub take_url: Secret,
    /// Where results go; `$RUNPOD_POD_ID` stands for the worker, `$ID` for the job. Without it no jobs can be taken.
    pub output_url: Option<Secret>,
    /// Where streamed progress goes; placeholders as in [`Self::output_url`].
    pub stream_url: Option<Secret>,
    /// Where the worker says that it lives; `$RUNPOD_POD_ID` stands for it.
    pub ping_url: Option<Secret>,
    /// Time between two pings.
    pub ping_interval: Duration,
    /// Sent as it is in `Authorization`.
    pub api_key: Option<Secret>,
    /// The worker's id: the pod's, or one of its own.
    pub worker_id: String,
    /// How long the platform waits for a worker to get ready.
    pub init_timeout: Duration,
    /// Jobs on the GPU, or waiting for it, at once.
    pub concurrency: u32,
    /// Whether a clean worker is asked for after each job.
    pub refresh_worker: bool,
    /// Run before the first job is taken: a file with a request or a graph.
    pub warmup_workflow: Option<PathBuf>,
    /// Model files that must be there before the first job is taken.
    pub required_models: Vec<RequiredModel>,
    /// Time between two progress posts of a job; [`None`]: none are sent.
    pub progress_interval: Option<Duration>,
}

/// A model file that must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredModel {
    /// ComfyUI's folder, such as `loras`.
    pub folder: String,
    /// The file's name as ComfyUI lists it, with folders under that one if there are any.
    pub name: String,
}

const RUNPOD_POD_ID: Variable<String> = text("RUNPOD_POD_ID", "text")
    .example("k3xv0bq1")
    .meaning("Set by RunPod: the pod's id.");
const RUNPOD_ENDPOINT_ID: Variable<String> = text("RUNPOD_ENDPOINT_ID", "text")
    .example("abc123")
    .meaning("Set by RunPod: the serverless endpoint's id.");
const SERVE_API_LOCALLY: Variable<bool> = switch("SERVE_API_LOCALLY", false).meaning(
    "On RunPod: serve the HTTP API instead of taking jobs from the queue. Elsewhere the API is always served.",
);
const LOG_LEVEL: Variable<String> =
    parsed("LOG_LEVEL", "trace, debug, info, warn or error, or a filter", log_filter)
        .default_and_example("info", "debug,comfyui=warn")
        .meaning("What we log; a filter as tracing reads it (`target=level,…`) says it for each part, ComfyUI's own lines being `comfyui`.");
// It goes with the next release, as those of `retired` do.
const RUNPOD_DEBUG_LEVEL: Variable<String> = parsed("RUNPOD_DEBUG_LEVEL", "level", sdk_log_filter)
    .example("DEBUG")
    .retired("set RUNPOD_LOG_LEVEL instead");
const RUNPOD_LOG_LEVEL: Variable<String> =
    parsed("RUNPOD_LOG_LEVEL", "NOTSET, TRACE, DEBUG, INFO, WARN or ERROR", sdk_log_filter)
        .example("INFO")
        .meaning("As RunPod's Python SDK takes it: what the worker and ComfyUI log; `NOTSET`: nothing. `LOG_LEVEL` overrides it, where it is set.");
const RUNPOD_WEBHOOK_GET_JOB: Variable<Secret> = address("RUNPOD_WEBHOOK_GET_JOB")
    .example("https://api.runpod.ai/v2/abc123/job-take/$ID?gpu=x")
    .meaning("Set by RunPod: the platform's job queue. With it the worker takes jobs from there.");
const RUNPOD_WEBHOOK_POST_OUTPUT: Variable<Secret> = address("RUNPOD_WEBHOOK_POST_OUTPUT")
    .example("https://api.runpod.ai/v2/abc123/job-done/$RUNPOD_POD_ID/$ID?gpu=x")
    .meaning("Set by RunPod: where results go.");
const RUNPOD_WEBHOOK_POST_STREAM: Variable<Secret> = address("RUNPOD_WEBHOOK_POST_STREAM")
    .example("https://api.runpod.ai/v2/abc123/job-stream/$RUNPOD_POD_ID/$ID?gpu=x")
    .meaning("Set by RunPod: where the progress of a job with `input.stream` goes.");
const RUNPOD_WEBHOOK_PING: Variable<Secret> = address("RUNPOD_WEBHOOK_PING")
    .example("https://api.runpod.ai/v2/abc123/ping/$RUNPOD_POD_ID")
    .meaning("Set by RunPod: where the worker says that it lives, and which jobs it has.");
const RUNPOD_PING_INTERVAL: Variable<Duration> = milliseconds("RUNPOD_PING_INTERVAL", 10..=3_600_000)
    .default_and_example("10000", "4000")
    .meaning("Set by RunPod: time between two pings.");
const RUNPOD_AI_API_KEY: Variable<Secret> = secret("RUNPOD_AI_API_KEY")
    .example("rpa_…")
    .meaning("Set by RunPod: the worker's key to the platform.");
const RUNPOD_INIT_TIMEOUT: Variable<Duration> = seconds("RUNPOD_INIT_TIMEOUT", 1..=86_400)
    .default_and_example("420", "800")
    .meaning("How long RunPod waits for a worker to get ready. The log warns when it will not do.");
const WORKER_CONCURRENCY: Variable<u32> = whole("WORKER_CONCURRENCY", "number", 1..=16)
    .default_and_example("1", "2")
    .meaning("Jobs of the platform's queue on the GPU, or waiting for it, at once; at least one for each ComfyUI that is ready. A job whose result is on its way does not count: the next one is taken meanwhile. More than one keeps the GPU busy between jobs, and keeps a job from idle workers.");
const REFRESH_WORKER: Variable<bool> = switch("REFRESH_WORKER", false)
    .meaning("Ask the platform for a clean worker after each job. `input.refresh_worker` does it for one job.");
const WARMUP_WORKFLOW: Variable<PathBuf> = path("WARMUP_WORKFLOW", "path")
    .example("/runpod-volume/warmup.json")
    .meaning("A file with a request (`{\"input\": …}`) or a workflow, run before the first job is taken so that its models are loaded. If it fails, the worker reports itself unhealthy.");
const WARMUP: Variable<WarmUpChoice> = parsed("WARMUP", "auto, off or a template", warm_up)
    .default_and_example("auto", "qwen-image-lightning")
    .meaning("What is run before the first job where `WARMUP_WORKFLOW` names nothing: two steps of a template, so that its models are loaded. `auto`: on RunPod with a GPU, the usual template, or one that runs with the models of `MODEL_SET` or `MODELS`, if its models are there.");
const REQUIRED_MODELS: Variable<Vec<RequiredModel>> = parsed("REQUIRED_MODELS", "list of folder/file", required_models)
    .example("vae/qwen_image_vae.safetensors,loras/mine.safetensors")
    .meaning("Model files, comma-separated, that ComfyUI must list before the first job is taken. If one is missing, the worker reports itself unhealthy.");

pub(super) fn read(reader: &mut Reader) -> Platform {
    let pod_id = reader.optional(&RUNPOD_POD_ID);
    let endpoint_id = reader.optional(&RUNPOD_ENDPOINT_ID);
    let serve_api_locally = reader.value(&SERVE_API_LOCALLY);
    let own_filter = reader.value(&LOG_LEVEL);
    let sdk_filter = reader.optional(&RUNPOD_LOG_LEVEL);
    let sdk_filter = sdk_filter.or(reader.optional(&RUNPOD_DEBUG_LEVEL));
    let own_is_chosen = reader.is_set(&LOG_LEVEL);
    Platform {
        queue: queue(reader, pod_id.as_deref()),
        pod_id,
        endpoint_id,
        serve_api_locally,
        warm_up: reader.value(&WARMUP),
        log_filter_chosen: own_is_chosen || sdk_filter.is_some(),
        log_filter: sdk_filter.filter(|_| !own_is_chosen).unwrap_or(own_filter),
    }
}

/// The queue, if the environment has one.
fn queue(reader: &mut Reader, pod_id: Option<&str>) -> Option<RunpodConfig> {
    let take_url = reader.optional(&RUNPOD_WEBHOOK_GET_JOB);
    let queue = RunpodConfig {
        take_url: take_url.clone().unwrap_or_else(|| Secret::new("")),
        output_url: reader.optional(&RUNPOD_WEBHOOK_POST_OUTPUT),
        stream_url: reader.optional(&RUNPOD_WEBHOOK_POST_STREAM),
        ping_url: reader.optional(&RUNPOD_WEBHOOK_PING),
        ping_interval: reader.value(&RUNPOD_PING_INTERVAL),
        api_key: reader.optional(&RUNPOD_AI_API_KEY),
        worker_id: pod_id.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned),
        init_timeout: reader.value(&RUNPOD_INIT_TIMEOUT),
        concurrency: reader.value(&WORKER_CONCURRENCY),
        refresh_worker: reader.value(&REFRESH_WORKER),
        warmup_workflow: reader.optional(&WARMUP_WORKFLOW),
        required_models: reader.optional(&REQUIRED_MODELS).unwrap_or_default(),
        progress_interval: Some(reader.value(&PROGRESS_INTERVAL_MS)).filter(|interval| !interval.is_zero()),
    };
    take_url.is_some().then_some(queue)
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

fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("is no log filter ({error})")),
    }
}

/// A variable with an address that has placeholders and keys in it.
const fn address(name: &'static str) -> Variable<Secret> {
    let parse = |text: &str| match web_address(text) {
        Ok(_) => Ok(Secret::new(text)),
        Err(_) => Err("is no http or https address".to_owned()),
    };
    parsed(name, "URL", parse).hidden()
}

fn warm_up(text: &str) -> Result<WarmUpChoice, String> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(WarmUpChoice::Auto),
        "off" | "false" | "none" => Ok(WarmUpChoice::Off),
        _ if text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter)) =>
        {
            Ok(WarmUpChoice::Template(text.to_owned()))
        }
        _ => Err("is neither auto, off, nor the name of a template".to_owned()),
    }
}

fn required_models(text: &str) -> Result<Vec<RequiredModel>, String> {
    listed(text)
        .map(|entry| match entry.split_once('/') {
            Some((folder, name)) if !folder.is_empty() && !name.is_empty() => Ok(RequiredModel {
                folder: folder.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(format!("names `{entry}`, which is no folder and file")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(vars: &[(&str, &str)]) -> Option<(String, bool)> {
        let mut reader = Reader::of(vars);
        let platform = read(&mut reader);
        tracing_subscriber::EnvFilter::try_new(&platform.log_filter).unwrap();
        let filter = (platform.log_filter, platform.log_filter_chosen);
        reader.mistakes.is_empty().then_some(filter)
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

    fn config(vars: &[(&str, &str)]) -> Result<Option<RunpodConfig>, Vec<super::super::Mistake>> {
        let mut reader = Reader::of(vars);
        let config = queue(&mut reader, Some("pod"));
        if reader.mistakes.is_empty() {
            Ok(config)
        } else {
            Err(reader.mistakes)
        }
    }

    const TAKE: (&str, &str) = (
        "RUNPOD_WEBHOOK_GET_JOB",
        "https://api.runpod.ai/v2/e/job-take/$ID?gpu=x",
    );
    const DONE: (&str, &str) = (
        "RUNPOD_WEBHOOK_POST_OUTPUT",
        "https://api.runpod.ai/v2/e/job-done/$RUNPOD_POD_ID/$ID",
    );

    #[test]
    fn there_is_a_queue_where_the_platform_says_so() {
        assert_eq!(config(&[DONE]).unwrap(), None);
        let queue = config(&[
            TAKE,
            DONE,
            ("REQUIRED_MODELS", "vae/a.safetensors, loras/x/b.safetensors,"),
        ]);
        let queue = queue.unwrap().unwrap();
        assert_eq!(queue.worker_id, "pod");
        let names: Vec<_> = queue.required_models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["a.safetensors", "x/b.safetensors"]);
        assert!(!format!("{queue:?}").contains("runpod.ai"), "its addresses hold keys");
    }

    #[test]
    fn mistakes_are_told_by_name() {
        for (name, wrong) in [
            ("RUNPOD_WEBHOOK_PING", "ftp://x"),
            ("WORKER_CONCURRENCY", "0"),
            ("REQUIRED_MODELS", "a.safetensors"),
        ] {
            let mistakes = config(&[TAKE, DONE, (name, wrong)]).unwrap_err();
            assert_eq!(mistakes[0].variable, name);
        }
    }
}
