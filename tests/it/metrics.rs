//! What Prometheus reads of the worker, and a real Prometheus that reads it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::support::binary::Served;
use crate::support::clients::debian;
use crate::support::{Worker, graph, http, shared, text, until};

const KEY: &str = "0123456789-of-the-metrics";

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

async fn metrics_of(url: &str) -> String {
    let answer = http().get(format!("{url}/metrics")).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let kind = answer.headers()["content-type"].to_str().expect("a text").to_owned();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    answer.text().await.expect("a text")
}

/// The value of a metric with all of its labels.
fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {text}"))
        .parse()
        .expect("a number")
}

/// `jobs_ended_total` of a graph.
fn ended(outcome: &str, error: &str) -> String {
    format!(
        "qwen_image_worker_jobs_ended_total{{dialect=\"runpod\",template=\"workflow\",engine=\"local\",outcome=\"{outcome}\",error=\"{error}\"}}"
    )
}

#[tokio::test]
async fn what_happened_is_counted_and_no_word_of_a_user_is_told() {
    let comfy = shared().await;
    let data = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let vars: BTreeMap<String, String> = [
        ("DATA_DIR", data.path().display().to_string()),
        ("COMFYUI_URL", comfy.comfy_url().await),
        ("PORT", "0".to_owned()),
        ("EDIT_PORT", "none".to_owned()),
        ("COMFY_REGISTRY_URL", "http://127.0.0.1:1".to_owned()),
        ("METRICS_PORT", port.to_string()),
        ("QUEUE_LIMIT", "7".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let worker = Served::start(&vars).await;
    let run = async |input: Value| {
        let body = json!({ "input": input }).to_string();
        worker.send(Method::POST, "/runsync", body).await.body
    };
    let shown = json!({"1": {"class_type": "ShowText", "inputs": {"text": "a red fox of mine"}}});
    let done = run(json!({ "workflow": shown })).await;
    assert_eq!(done["status"], "COMPLETED", "{done:#}");
    let raised = run(json!({"workflow": graph("Raise", json!({"message": "boom"}))})).await;
    assert_eq!(raised["status"], "FAILED", "{raised:#}");
    let of_nobody = run(json!({"template": "a-template-of-mine", "prompt": "a red fox of mine"})).await;
    assert_eq!(of_nobody["status"], "FAILED", "{of_nobody:#}");

    let alone = format!("http://127.0.0.1:{port}");
    for url in [&worker.url, &alone] {
        let told = metrics_of(url).await;
        for (name, wanted) in [
            (&*ended("completed", ""), 1.0),
            (&ended("failed", "node_failed"), 1.0),
            ("qwen_image_worker_queue_limit", 7.0),
            ("qwen_image_worker_ready", 1.0),
            ("qwen_image_worker_jobs{state=\"waiting\"}", 0.0),
            ("qwen_image_worker_jobs{state=\"running\"}", 0.0),
            ("qwen_image_worker_webhook_attempts_total{result=\"given_up\"}", 0.0),
            (
                "qwen_image_worker_job_phase_seconds_count{engine=\"local\",phase=\"queue\"}",
                2.0,
            ),
            (
                "qwen_image_worker_job_phase_seconds_count{engine=\"local\",phase=\"run\"}",
                2.0,
            ),
            (
                "qwen_image_worker_job_phase_seconds_count{engine=\"local\",phase=\"deliver\"}",
                1.0,
            ),
        ] {
            let is = value(&told, name);
            assert!((is - wanted).abs() < 1e-9, "{name} is {is}: {told}");
        }
        assert!(value(&told, "qwen_image_worker_engine_busy_seconds_total{engine=\"local\"}") > 0.0);
        assert!(value(&told, "qwen_image_worker_uptime_seconds") > 0.0);
        assert!(!told.contains("of-mine") && !told.contains("fox"), "{told}");
        assert!(told.contains("template=\"unknown\"") || told.contains("template=\"workflow\""));
    }
    // Nothing else is there.
    let other = http().get(format!("{alone}/health")).send().await.expect("an answer");
    assert_eq!(other.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_metrics_are_for_this_machine_and_for_those_with_a_key() {
    // Nothing listens there.
    const NOWHERE: &str = "http://127.0.0.1:9";
    let asked = async |worker: &Worker, headers: &[(&str, &str)]| {
        let mut request = http().get(format!("{}/metrics", worker.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("an answer");
        let challenged = answer.headers().contains_key("www-authenticate");
        let status = answer.status().as_u16();
        (status, challenged, answer.text().await.expect("a text"))
    };
    let passed_on = ("x-forwarded-for", "127.0.0.1");
    let worker = Worker::attached(NOWHERE, &[]).await;
    assert_eq!(asked(&worker, &[]).await.0, 200);
    let (status, _, said) = asked(&worker, &[passed_on]).await;
    assert!(status == 403 && said.contains("METRICS_PORT"), "{status} {said}");

    // A proxy on this machine may say nothing of whom it serves.
    let worker = Worker::attached(NOWHERE, &[("API_KEY", KEY)]).await;
    assert_eq!(asked(&worker, &[]).await.0, 401);
    let (right, wrong) = (format!("Bearer {KEY}"), "Bearer another");
    for (key, wanted) in [(None, 401), (Some(wrong), 401), (Some(&*right), 200)] {
        let headers: Vec<_> = [passed_on]
            .into_iter()
            .chain(key.map(|key| ("authorization", key)))
            .collect();
        let (status, challenged, said) = asked(&worker, &headers).await;
        assert_eq!((status, challenged), (wanted, wanted == 401), "{key:?}: {said}");
        assert!(
            !said.contains(KEY) && (status == 200 || !said.contains("another")),
            "{said}"
        );
    }
}

fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_what_is_deployed() {
    let promtool = debian("prometheus", "promtool").await;
    for (what, file) in [
        ("rules", "prometheus/alerts.yml"),
        ("config", "prometheus/prometheus.yml"),
    ] {
        let checked = Command::new(&promtool)
            .args(["check", what])
            .arg(deployed(file))
            .output()
            .await;
        let checked = checked.expect("promtool runs");
        let said = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{file}: {said}");
    }
}

#[tokio::test]
async fn alerts_fire_when_they_should_and_not_before() {
    let promtool = debian("prometheus", "promtool").await;
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/alerts/test.yml");
    let tested = Command::new(promtool).args(["test", "rules"]).arg(tests).output().await;
    let tested = tested.expect("promtool runs");
    let said = String::from_utf8_lossy(&tested.stdout).into_owned() + &String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{said}");
}

/// A Prometheus that reads one worker, and has our alerts.
struct Prometheus {
    url: String,
    _process: Child,
    _data: tempfile::TempDir,
}

impl Prometheus {
    async fn start(worker: &str) -> Self {
        let program = debian("prometheus", "prometheus").await;
        let data = tempfile::tempdir().expect("a folder");
        let usual = std::fs::read_to_string(deployed("prometheus/prometheus.yml")).expect("a file");
        let target = worker.trim_start_matches("http://");
        let config = usual
            .replace("[\"worker-1:9464\", \"worker-2:9464\"]", &format!("[\"{target}\"]"))
            .replace("15s", "1s")
            .replace(
                "- alerts.yml",
                &format!("- {}", deployed("prometheus/alerts.yml").display()),
            );
        assert!(config.contains(target) && config.contains("1s"), "{config}");
        let file = data.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("a file");
        let port = free_port();
        let process = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus runs");
        Self {
            url: format!("http://127.0.0.1:{port}"),
            _process: process,
            _data: data,
        }
    }

    /// What it answers to a query; an error where it does not understand that.
    async fn ask(&self, query: &str) -> Value {
        let url = format!("{}/api/v1/query", self.url);
        let Ok(answer) = http().get(url).query(&[("query", query)]).send().await else {
            return Value::Null;
        };
        answer.json().await.unwrap_or_default()
    }
}

/// The expressions of the dashboard, as Grafana asks for them.
fn panels() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(deployed("grafana/dashboard.json")).expect("a file");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(|target| (text_of(panel, "title"), text_of(target, "expr")))
    });
    targets
        .map(|(title, query)| {
            let query = query.replace("$__rate_interval", "1m");
            (title, query.replace("$job", ".*").replace("$instance", ".*"))
        })
        .collect()
}

fn text_of(value: &Value, key: &str) -> String {
    text(value, key).to_owned()
}

#[tokio::test]
async fn a_real_prometheus_reads_the_worker_and_understands_dashboard_and_alerts() {
    let worker = Worker::beside_shared(&[]).await;
    let shown = json!({"1": {"class_type": "ShowText", "inputs": {"text": "b"}}});
    worker.run(json!({ "workflow": shown })).await.completed();
    let prometheus = Prometheus::start(&worker.url).await;
    let jobs = "sum(qwen_image_worker_jobs_ended_total{template=\"workflow\",outcome=\"completed\"})";
    until("Prometheus has read the worker twice", async || {
        let has = async |query: &str| {
            let answer = prometheus.ask(query).await;
            answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
        };
        has(jobs).await.is_some_and(|jobs| jobs != "0")
            && has("count_over_time(qwen_image_worker_ready[1m]) > 1").await.is_some()
    })
    .await;
    let panels = panels();
    assert!(panels.len() > 20, "{panels:?}");
    for (title, query) in panels {
        let answer = prometheus.ask(&query).await;
        assert_eq!(answer["status"], "success", "{title}: {query}: {answer:#}");
        // What is asked of a time, or of sums, needs more time than a test takes.
        if !query.contains("rate(") && !query.contains("increase(") {
            let results = answer["data"]["result"].as_array().expect("results");
            assert!(!results.is_empty(), "{title}: nothing answers {query}");
        }
    }
    let targets = json_at(&prometheus, "targets").await;
    assert_eq!(targets["data"]["activeTargets"][0]["lastError"], "", "{targets:#}");
    let metadata = json_at(
        &prometheus,
        "metadata?metric=qwen_image_worker_engine_busy_seconds_total",
    )
    .await;
    let busy = &metadata["data"]["qwen_image_worker_engine_busy_seconds_total"][0]["type"];
    assert_eq!(busy, "counter", "{metadata:#}");
    let rules = json_at(&prometheus, "rules").await;
    let rules = rules["data"]["groups"][0]["rules"].as_array().expect("rules");
    assert!(rules.len() >= 10);
    for rule in rules {
        // Those that were evaluated by now; Prometheus logs the others first.
        assert_ne!(rule["health"], "err", "{rule:#}");
    }
}

async fn json_at(prometheus: &Prometheus, path: &str) -> Value {
    crate::support::json_at(&format!("{}/api/v1/{path}", prometheus.url)).await
}
