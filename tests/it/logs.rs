//! The log on a RunPod endpoint: what its console reads.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qwen_image_worker::telemetry::runpod_lines::RunpodLines;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::binary::binary;
use crate::support::clients::python;
use crate::support::{PATIENCE, slow, text};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log(entry: &Value) {
    let message = text(entry, "message");
    let _job = entry["job"]
        .as_str()
        .map(|job| tracing::info_span!("job", job.id = job).entered());
    match text(entry, "level") {
        "TRACE" => tracing::trace!("{message}"),
        "DEBUG" => tracing::debug!("{message}"),
        "INFO" => tracing::info!("{message}"),
        "WARN" => tracing::warn!("{message}"),
        _ => tracing::error!("{message}"),
    }
}

#[tokio::test]
async fn each_line_is_as_runpods_own_logger_writes_it() {
    let mut plan: Vec<Value> = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]
        .iter()
        .flat_map(|level| {
            [json!(null), json!("job-1")].map(|job| json!({"message": "a line", "level": level, "job": job}))
        })
        .collect();
    for message in [
        "two\nlines \"quoted\" \\ \t \u{7} \u{2028}".to_owned(),
        "Größe 😀".to_owned(),
        "é".repeat(4096),
        format!("{}{}", "a".repeat(4000), "😀".repeat(97)),
        (0..3000).map(|number| number.to_string()).collect(),
    ] {
        plan.push(json!({"message": message, "level": "INFO", "job": "job-2"}));
    }
    let script = include_str!("clients/runpod_logger.py");
    let theirs = python("runpod==1.12.0", script, &json!(plan)).await;
    let written = Written::default();
    let subscriber = tracing_subscriber::registry().with(RunpodLines::new(written.clone()));
    tracing::subscriber::with_default(subscriber, || plan.iter().for_each(log));
    let ours = String::from_utf8(written.0.lock().expect("no panic").clone()).expect("UTF-8");
    let theirs = theirs.as_array().expect("a list");
    assert_eq!((ours.lines().count(), theirs.len()), (plan.len(), plan.len()));
    for (ours, theirs) in ours.lines().zip(theirs) {
        let ours: Value = serde_json::from_str(ours).expect("JSON");
        let theirs: Value = serde_json::from_str(theirs.as_str().expect("a line")).expect("JSON");
        assert_eq!(ours, theirs);
        let keys = |line: &Value| line.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&ours), keys(&theirs));
    }
}

/// `serve` on an endpoint, with a ComfyUI that is not there.
fn endpoint(data: &std::path::Path) -> BTreeMap<String, String> {
    [
        ("RUNPOD_ENDPOINT_ID", "abc123"),
        ("COMFYUI_URL", "http://127.0.0.1:9"),
        ("PORT", "0"),
        ("DATA_DIR", data.to_str().expect("UTF-8")),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

#[tokio::test]
async fn on_an_endpoint_serve_logs_json_on_standard_output_and_names_the_job() {
    let data = tempfile::tempdir().expect("a folder");
    let vars = endpoint(data.path());
    let mut child = binary(&vars).arg("serve").spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut seen = Vec::new();
    let mut job = None;
    // To the end of its output, which a job that has to wait brings about.
    while let Some(line) = tokio::time::timeout(PATIENCE, lines.next_line())
        .await
        .expect("in time")
        .expect("UTF-8")
    {
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
        if let Some((_, rest)) = text(&line, "message").split_once("listening on ") {
            let url = rest.split(';').next().unwrap_or_default();
            let body = json!({"input": {"workflow": slow(1, 1, 1)}}).to_string();
            let client = reqwest::Client::builder().no_proxy().build().expect("a client");
            let answer = client.post(format!("{url}/runsync")).body(body).send().await;
            let answer: Value = answer.expect("an answer").json().await.expect("JSON");
            // It waits for ComfyUI, and is named to its client.
            let (_, id) = text(&answer, "error").split_once("/status/").expect("the job's id");
            job = Some(json!(id.split(',').next()));
            let pid = child.id().expect("it runs").cast_signed();
            kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
        }
        seen.push(line);
    }
    let job = job.unwrap_or_else(|| panic!("it did not listen: {seen:?}"));
    for line in &seen {
        let keys: Vec<_> = line.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["requestId", "message", "level"]);
    }
    assert!(
        seen.iter()
            .any(|line| line["requestId"] == job && line["level"] == "WARN"),
        "{job}: {seen:#?}"
    );
    let mut rest = String::new();
    child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut rest)
        .await
        .expect("UTF-8");
    assert_eq!(rest, "");
}

#[tokio::test]
async fn a_failed_start_on_an_endpoint_is_in_the_log_too() {
    let data = tempfile::tempdir().expect("a folder");
    let mut vars = endpoint(data.path());
    vars.remove("COMFYUI_URL");
    vars.insert("CUDA_VISIBLE_DEVICES".into(), "-1".into());
    let done = binary(&vars).arg("serve").output().await.expect("the binary runs");
    assert_eq!(done.status.code(), Some(1));
    let line: Value = serde_json::from_slice(&done.stdout).expect("one line of JSON");
    assert_eq!(line["level"], "ERROR");
    assert!(text(&line, "message").contains("no NVIDIA GPU"), "{line}");
}
