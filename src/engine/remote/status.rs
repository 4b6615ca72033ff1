//! How a job stands at an endpoint, in the words of RunPod and of the worker behind it.

use std::time::Duration;

use serde_json::Value;

use super::output::Output;
use crate::echo::cut;
use crate::error::ErrorKind;
use crate::job::progress::Report;

/// Beginnings of a worker's words about a job that no engine would run.
const OF_JOB: [&str; 12] = [
    "invalid workflow",
    "invalid request",
    "invalid json",
    "failed to load model",
    "workflow validation failed",
    "missing 'workflow'",
    "please provide input",
    "'images' must",
    "error validating workflow",
    "the request has no",
    "failed to upload one or more input images",
    "node ",
];
/// Words about a worker that broke down.
const OF_ENGINE: [&str; 24] = [
    "cuda",
    "out of memory",
    "outofmemory",
    "gpu failed",
    "gpu is lost",
    "no gpu",
    "off the bus",
    "worker exited",
    "worker stopped",
    "worker crashed",
    "exit code",
    "sigkill",
    "preempted",
    "job timed out after",
    "not reachable",
    "websocket connection",
    "connection refused",
    "connection reset",
    "no space left",
    "comfyui crashed",
    "comfyui cannot",
    "comfyui died",
    "took too long to start",
    "internal error",
];

/// Whether words about a failure are those of a worker that broke down.
pub(super) fn is_of_engine(words: &str) -> bool {
    let lower = words.to_ascii_lowercase();
    OF_ENGINE.iter().any(|known| lower.contains(known))
}

/// How a job stands there.
#[derive(Debug)]
pub(super) enum Status {
    Queued,
    Running(Report),
    Completed(Output),
    Failed(Fault),
    Cancelled,
    /// `ran`: not only in the queue.
    TimedOut {
        ran: bool,
    },
}

/// Why a job failed there.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: ErrorKind,
    /// Whether no other engine would do better.
    pub(super) is_of_job: bool,
    /// In the engine's own words.
    pub(super) words: String,
}

impl Fault {
    /// What a worker says.
    fn of(words: String) -> Self {
        let (kind, is_of_job) = meaning_of(&words);
        Self { kind, is_of_job, words }
    }
}

/// What a worker's words about a failure mean, and whether no other engine would do better. What is not known to be an engine's
/// fault is the job's: another one would be paid for the same failure.
fn meaning_of(words: &str) -> (ErrorKind, bool) {
    let lower = words.to_ascii_lowercase();
    let begins = |known: &[&str]| known.iter().any(|known| lower.trim_start().starts_with(known));
    if !begins(&OF_JOB) && is_of_engine(words) {
        let is_memory = lower.contains("out of memory") || lower.contains("outofmemory");
        let kind = if is_memory {
            ErrorKind::OutOfMemory
        } else {
            ErrorKind::GpuFailed
        };
        return (kind, false);
    }
    let kind = if lower.contains("invalid workflow") || lower.contains("validat") {
        ErrorKind::InvalidWorkflow
    } else if lower.contains("failed to load model") {
        ErrorKind::ModelMissing
    } else {
        ErrorKind::NodeFailed
    };
    (kind, true)
}

/// Reads what `/status` answers; [`None`]: it tells no state.
pub(super) fn read_status(mut answer: Output) -> Option<Status> {
    let mut object = answer.value.take();
    let state = object.get("status")?.as_str()?.to_owned();
    let output = object.get_mut("output").map(Value::take).unwrap_or_default();
    Some(match state.as_str() {
        "IN_QUEUE" => Status::Queued,
        "IN_PROGRESS" | "RUNNING" => {
            // Ours tells it beside the output too, where it is asked without RunPod in between.
            let progress = object.get("progress").unwrap_or(&output);
            Status::Running(report(progress))
        }
        "COMPLETED" => match error_of(&object, &output) {
            // worker-comfyui may answer so.
            Some(words) if output.get("images").is_none() => {
                Status::Failed(Fault::of(answer.text(words).into_string()))
            }
            _ => Status::Completed(answer.part(output)),
        },
        "FAILED" => {
            let words = error_of(&object, &output).unwrap_or_else(|| "it failed, and says nothing of why".to_owned());
            Status::Failed(Fault::of(answer.text(words).into_string()))
        }
        "CANCELLED" => Status::Cancelled,
        "TIMED_OUT" => {
            let time = object.get("executionTime").and_then(Value::as_f64);
            Status::TimedOut {
                ran: time.is_some_and(|time| time > 0.0),
            }
        }
        _ => return None,
    })
}

/// What a worker says of a failure: a text, an object with one, or such an object as JSON in a text, as RunPod's SDK sends it.
fn error_of(object: &Value, output: &Value) -> Option<String> {
    let found = object.get("error").or_else(|| output.get("error"))?;
    let text = |value: &Value| {
        let fields = ["error_message", "message", "error"];
        let mut fields = fields.iter().filter_map(|field| value.get(field)?.as_str());
        fields.next().map(str::to_owned)
    };
    match found {
        Value::String(words) if words.trim().is_empty() => None,
        Value::String(words) => {
            let inner: Option<Value> = serde_json::from_str(words).ok();
            Some(inner.as_ref().and_then(text).unwrap_or_else(|| words.clone()))
        }
        Value::Null => None,
        other => Some(text(other).unwrap_or_else(|| other.to_string())),
    }
}

/// How far a worker of ours is, as it tells the platform.
fn report(progress: &Value) -> Report {
    let number = |field: &str| progress.get(field).and_then(Value::as_u64);
    let small = |field: &str| number(field).and_then(|number| u32::try_from(number).ok());
    let text = |field: &str| progress.get(field).and_then(Value::as_str).map(cut);
    let eta = progress.get("eta_s").and_then(Value::as_f64);
    Report {
        percent: number("percent").and_then(|percent| u8::try_from(percent).ok()),
        step: small("step").zip(small("steps")),
        node_id: text("node_id"),
        class_type: text("class_type"),
        eta: eta.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        preview: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> String {
        match read_status(Output::read(body.to_string().into()).unwrap()) {
            Some(Status::Failed(fault)) => format!("failed: {}", fault.words),
            Some(Status::Completed(output)) => format!("completed: {}", output.value),
            Some(Status::Running(report)) => format!("{:?} {:?}", report.percent, report.step),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_status_is_read_as_workers_write_it() {
        assert_eq!(read(&json!({"status": "IN_QUEUE"})), "Some(Queued)");
        let progress = json!({"percent": 40, "step": 2, "steps": 8});
        assert_eq!(
            read(&json!({"status": "IN_PROGRESS", "output": progress})),
            "Some(40) Some((2, 8))"
        );
        assert_eq!(
            read(&json!({"status": "IN_PROGRESS", "progress": progress})),
            "Some(40) Some((2, 8))"
        );
        assert_eq!(read(&json!({"status": "IN_PROGRESS"})), "None None");
        let failed = json!({"status": "FAILED", "error": "{\"error_type\": \"x\", \"error_message\": \"CUDA\"}"});
        assert_eq!(read(&failed), "failed: CUDA");
        assert_eq!(read(&json!({"status": "FAILED", "error": "no"})), "failed: no");
        assert_eq!(
            read(&json!({"status": "FAILED", "output": {"error": "so"}})),
            "failed: so"
        );
        assert_eq!(
            read(&json!({"status": "COMPLETED", "output": {"error": "so"}})),
            "failed: so"
        );
        assert_eq!(read(&json!({"status": "COMPLETED", "output": {}})), "completed: {}");
        assert_eq!(read(&json!({"status": "ENDED"})), "None");
        assert_eq!(read(&json!({})), "None");
    }

    #[test]
    fn what_is_not_known_to_be_the_engines_fault_is_the_jobs() {
        for (words, expected) in [
            (
                "CUDA error: an illegal memory access was encountered",
                (ErrorKind::GpuFailed, false),
            ),
            (
                "torch.OutOfMemoryError: Allocation on device",
                (ErrorKind::OutOfMemory, false),
            ),
            (
                "ComfyUI server (127.0.0.1:8188) not reachable after 500 retries",
                (ErrorKind::GpuFailed, false),
            ),
            (
                "Invalid workflow JSON structure: the GPU node",
                (ErrorKind::InvalidWorkflow, true),
            ),
            (
                "Failed to load model: cuda.safetensors",
                (ErrorKind::ModelMissing, true),
            ),
            ("node 3 (KSampler) failed: ValueError: x", (ErrorKind::NodeFailed, true)),
            ("something else", (ErrorKind::NodeFailed, true)),
        ] {
            assert_eq!(meaning_of(words), expected, "{words}");
        }
    }
}
