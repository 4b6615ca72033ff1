//! RunPod's job queue, as the platform describes it in the environment.

use std::time::Duration;

use serde::Deserialize;

use super::secret::Secret;
use super::variable::{Reader, Variable, boolean, integer, text};

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
    pub warmup_workflow: Option<std::path::PathBuf>,
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

const RUNPOD_WEBHOOK_GET_JOB: Variable = Variable {
    name: "RUNPOD_WEBHOOK_GET_JOB",
    kind: "URL",
    default: None,
    example: "https://api.runpod.ai/v2/abc123/job-take/$ID?gpu=x",
    meaning: "Set by RunPod: the platform's job queue. With it the worker takes jobs from there.",
    secret: true,
};
const RUNPOD_WEBHOOK_POST_OUTPUT: Variable = Variable {
    name: "RUNPOD_WEBHOOK_POST_OUTPUT",
    kind: "URL",
    default: None,
    example: "https://api.runpod.ai/v2/abc123/job-done/$RUNPOD_POD_ID/$ID?gpu=x",
    meaning: "Set by RunPod: where results go.",
    secret: true,
};
const RUNPOD_WEBHOOK_POST_STREAM: Variable = Variable {
    name: "RUNPOD_WEBHOOK_POST_STREAM",
    kind: "URL",
    default: None,
    example: "https://api.runpod.ai/v2/abc123/job-stream/$RUNPOD_POD_ID/$ID?gpu=x",
    meaning: "Set by RunPod: where the progress of a job with `input.stream` goes.",
    secret: true,
};
const RUNPOD_WEBHOOK_PING: Variable = Variable {
    name: "RUNPOD_WEBHOOK_PING",
    kind: "URL",
    default: None,
    example: "https://api.runpod.ai/v2/abc123/ping/$RUNPOD_POD_ID",
    meaning: "Set by RunPod: where the worker says that it lives, and which jobs it has.",
    secret: true,
};
const RUNPOD_PING_INTERVAL: Variable = Variable {
    name: "RUNPOD_PING_INTERVAL",
    kind: "milliseconds, 10 to 3600000",
    default: Some("10000"),
    example: "4000",
    meaning: "Set by RunPod: time between two pings.",
    secret: false,
};
const RUNPOD_AI_API_KEY: Variable = Variable {
    name: "RUNPOD_AI_API_KEY",
    kind: "secret",
    default: None,
    example: "rpa_…",
    meaning: "Set by RunPod: the worker's key to the platform.",
    secret: true,
};
const RUNPOD_INIT_TIMEOUT: Variable = Variable {
    name: "RUNPOD_INIT_TIMEOUT",
    kind: "seconds, 1 to 86400",
    default: Some("420"),
    example: "800",
    meaning: "How long RunPod waits for a worker to get ready. The log warns when it will not do.",
    secret: false,
};
const WORKER_CONCURRENCY: Variable = Variable {
    name: "WORKER_CONCURRENCY",
    kind: "number, 1 to 16",
    default: Some("1"),
    example: "2",
    meaning: "Jobs of the platform's queue on the GPU, or waiting for it, at once. A job whose result is on its way does not count: the next one is taken meanwhile. More than one keeps the GPU busy between jobs, and keeps a job from idle workers.",
    secret: false,
};
const REFRESH_WORKER: Variable = Variable {
    name: "REFRESH_WORKER",
    kind: "true or false",
    default: Some("false"),
    example: "true",
    meaning: "Ask the platform for a clean worker after each job. `input.refresh_worker` does it for one job.",
    secret: false,
};
const WARMUP_WORKFLOW: Variable = Variable {
    name: "WARMUP_WORKFLOW",
    kind: "path",
    default: None,
    example: "/runpod-volume/warmup.json",
    meaning: "A file with a request (`{\"input\": …}`) or a graph in API format, run before the first job is taken so that its models are loaded. If it fails, the worker reports itself unhealthy.",
    secret: false,
};
const REQUIRED_MODELS: Variable = Variable {
    name: "REQUIRED_MODELS",
    kind: "list of folder/file",
    default: None,
    example: "vae/qwen_image_vae.safetensors,loras/mine.safetensors",
    meaning: "Model files, comma-separated, that ComfyUI must list before the first job is taken. If one is missing, the worker reports itself unhealthy.",
    secret: false,
};
const PROGRESS_INTERVAL_MS: Variable = Variable {
    name: "PROGRESS_INTERVAL_MS",
    kind: "milliseconds, 0 to 600000",
    default: Some("1000"),
    example: "5000",
    meaning: "Shortest time between two progress updates of a job of the platform's queue. `0`: none.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[
    &RUNPOD_WEBHOOK_GET_JOB,
    &RUNPOD_WEBHOOK_POST_OUTPUT,
    &RUNPOD_WEBHOOK_POST_STREAM,
    &RUNPOD_WEBHOOK_PING,
    &RUNPOD_PING_INTERVAL,
    &RUNPOD_AI_API_KEY,
    &RUNPOD_INIT_TIMEOUT,
    &WORKER_CONCURRENCY,
    &REFRESH_WORKER,
    &WARMUP_WORKFLOW,
    &REQUIRED_MODELS,
    &PROGRESS_INTERVAL_MS,
];

#[derive(Deserialize, Default)]
struct Raw {
    runpod_webhook_get_job: Option<String>,
    runpod_webhook_post_output: Option<String>,
    runpod_webhook_post_stream: Option<String>,
    runpod_webhook_ping: Option<String>,
    runpod_ping_interval: Option<String>,
    runpod_ai_api_key: Option<String>,
    runpod_init_timeout: Option<String>,
    worker_concurrency: Option<String>,
    refresh_worker: Option<String>,
    warmup_workflow: Option<String>,
    required_models: Option<String>,
    progress_interval_ms: Option<String>,
}

/// The queue, if the environment has one. The outer [`None`] only after a mistake.
#[expect(clippy::option_option, reason = "a mistake and an absent queue are two things")]
pub(super) fn read(
    reader: &mut Reader,
    vars: &[(String, String)],
    pod_id: Option<&str>,
) -> Option<Option<RunpodConfig>> {
    let raw: Raw = reader.raw(vars);
    let take_url = reader.optional(&RUNPOD_WEBHOOK_GET_JOB, raw.runpod_webhook_get_job, address);
    let output_url = reader.optional(&RUNPOD_WEBHOOK_POST_OUTPUT, raw.runpod_webhook_post_output, address);
    let stream_url = reader.optional(&RUNPOD_WEBHOOK_POST_STREAM, raw.runpod_webhook_post_stream, address);
    let ping_url = reader.optional(&RUNPOD_WEBHOOK_PING, raw.runpod_webhook_ping, address);
    let ping_interval = reader.value(
        &RUNPOD_PING_INTERVAL,
        raw.runpod_ping_interval,
        integer(10..=3_600_000_u64),
    );
    let api_key = reader.optional(&RUNPOD_AI_API_KEY, raw.runpod_ai_api_key, text);
    let init_timeout = reader.value(&RUNPOD_INIT_TIMEOUT, raw.runpod_init_timeout, integer(1..=86_400_u64));
    let concurrency = reader.value(&WORKER_CONCURRENCY, raw.worker_concurrency, integer(1..=16_u32));
    let refresh_worker = reader.value(&REFRESH_WORKER, raw.refresh_worker, boolean);
    let warmup_workflow = reader.optional(&WARMUP_WORKFLOW, raw.warmup_workflow, text);
    let required_models = reader.optional(&REQUIRED_MODELS, raw.required_models, models);
    let progress_interval = reader.value(
        &PROGRESS_INTERVAL_MS,
        raw.progress_interval_ms,
        integer(0..=600_000_u64),
    );
    let Some(take_url) = take_url? else {
        return Some(None);
    };
    let own_id = || uuid::Uuid::new_v4().to_string();
    Some(Some(RunpodConfig {
        take_url: Secret::new(take_url),
        output_url: output_url?.map(Secret::new),
        stream_url: stream_url?.map(Secret::new),
        ping_url: ping_url?.map(Secret::new),
        ping_interval: Duration::from_millis(ping_interval?),
        api_key: api_key?.map(Secret::new),
        worker_id: pod_id.map_or_else(own_id, str::to_owned),
        init_timeout: Duration::from_secs(init_timeout?),
        concurrency: concurrency?,
        refresh_worker: refresh_worker?,
        warmup_workflow: warmup_workflow?.map(Into::into),
        required_models: required_models?.unwrap_or_default(),
        progress_interval: Some(Duration::from_millis(progress_interval?)).filter(|interval| !interval.is_zero()),
    }))
}

/// An address with placeholders in it.
fn address(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(text.to_owned()),
        _ => Err("is no http or https address".to_owned()),
    }
}

fn models(text: &str) -> Result<Vec<RequiredModel>, String> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
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

    fn config(vars: &[(&str, &str)]) -> Result<Option<RunpodConfig>, Vec<super::super::Mistake>> {
        let vars: Vec<_> = vars
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut reader = Reader::default();
        let config = read(&mut reader, &vars, Some("pod"));
        config.ok_or_else(|| reader.finish().1)
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
