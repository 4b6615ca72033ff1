//! Starts workers for the tests. One of them, on one real ComfyUI, is shared by all tests that leave it as it was.

pub(crate) mod assets;
pub(crate) mod binary;
pub(crate) mod browser;
pub(crate) mod bucket;
pub(crate) mod civitai;
pub(crate) mod clients;
pub(crate) mod comfy_v2;
pub(crate) mod comfyui;
pub(crate) mod comfyui_recording;
pub(crate) mod control_group;
pub(crate) mod deployed;
pub(crate) mod dialects;
pub(crate) mod dockerfile;
pub(crate) mod elsewhere;
pub(crate) mod full_disk;
pub(crate) mod git_server;
pub(crate) mod image_server;
pub(crate) mod images_api;
pub(crate) mod judged;
pub(crate) mod kie_api;
#[expect(dead_code, reason = "the benchmarks use it too, and other parts of it")]
pub(crate) mod model_hub;
pub(crate) mod nats;
pub(crate) mod node_registry;
#[expect(dead_code, reason = "the benchmarks use it too, and other parts of it")]
pub(crate) mod platform;
pub(crate) mod proxy;
pub(crate) mod receiver;
pub(crate) mod recorder;
pub(crate) mod runpod_api;
pub(crate) mod scripted;
pub(crate) mod space;
pub(crate) mod upstream;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use qwen_image_worker::app::{App, Jobs};
use qwen_image_worker::comfy::ComfyState;
use qwen_image_worker::comfy::install::{self, InstallOptions, Installation};
use qwen_image_worker::config::Config;
use qwen_image_worker::http::server::{Port, serve};
use qwen_image_worker::telemetry::report::LogReporter;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio_util::sync::CancellationToken;

/// The longest that anything in a test may take before it counts as hanging. Generous: the cores are shared.
pub(crate) const PATIENCE: Duration = Duration::from_mins(4);

/// Outlives each test's own runtime, as the shared worker must.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    // Only the installation says something: on a new machine it takes a while, and a person should see why.
    let filter = "error,comfyui=off,s3s=off,qwen_image_worker=off,qwen_image_worker::telemetry::report=info";
    qwen_image_worker::telemetry::init(filter, indicatif::MultiProgress::new());
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime")
});

static SHARED: OnceCell<RwLock<Worker>> = OnceCell::const_new();

/// A worker in this process, listening on a port of its own. ComfyUI ends with the process.
pub(crate) struct Worker {
    pub(crate) url: String,
    /// The Edit Plus API's own port.
    pub(crate) edit_url: String,
    pub(crate) app: Arc<App>,
    pub(crate) data: Option<TempDir>,
    http: reqwest::Client,
    /// Keeps the shared ComfyUI from tests that kill or interrupt it, where this worker runs its jobs there.
    shared: Option<RwLockReadGuard<'static, Self>>,
}

/// The answer to one request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// A client for what is on this machine, whatever proxies the environment names. It keeps no connections: one would end
/// with the runtime of the test that opened it, under the test that has it then.
pub(crate) fn http() -> &'static reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
        client.timeout(PATIENCE).build().expect("a client")
    });
    &CLIENT
}

/// The JSON at an address of this machine.
pub(crate) async fn json_at(url: &str) -> Value {
    let answer = http().get(url).send().await.expect("an answer");
    answer.json().await.expect("JSON")
}

/// Where the managed ComfyUI is installed once for all tests: the place that `./start.sh` uses too.
pub(crate) fn install_dir() -> PathBuf {
    Config::from_env().expect("a good environment").paths.install_dir
}

/// ComfyUI in that place, installed first where it is not there yet: for a test that needs it without a worker.
pub(crate) async fn installed() -> Installation {
    let options = InstallOptions::new(install_dir());
    let installed = install::ensure(&options, &LogReporter::default()).await;
    installed.expect("ComfyUI can be installed")
}

/// The variables of a worker with a data folder of its own that has the test nodes.
pub(crate) fn fresh_data() -> (TempDir, BTreeMap<String, String>) {
    let data = tempfile::tempdir().expect("a folder");
    let nodes = data.path().join("base/custom_nodes");
    std::fs::create_dir_all(&nodes).expect("a folder");
    std::fs::write(nodes.join("worker_test_nodes.py"), include_str!("worker_test_nodes.py")).expect("a file");
    let vars = [
        ("DATA_DIR", data.path().display().to_string()),
        ("COMFYUI_INSTALL_DIR", install_dir().display().to_string()),
        ("DEMO_WEIGHTS", "true".to_owned()),
        ("PORT", "0".to_owned()),
        ("EDIT_PORT", "none".to_owned()),
        // Where tests run on a machine that has some.
        ("NETWORK_VOLUMES", "none".to_owned()),
        // Nobody is there: no test asks the Comfy Registry.
        ("COMFY_REGISTRY_URL", "http://127.0.0.1:1".to_owned()),
        // API nodes add two seconds to each start and are not used.
        ("COMFYUI_ARGS", "--disable-api-nodes".to_owned()),
    ];
    (
        data,
        vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    )
}

/// The worker that tests share. They may run jobs, and must leave ComfyUI alive. Held once in a test, to its end.
pub(crate) async fn shared() -> RwLockReadGuard<'static, Worker> {
    shared_worker().await.read().await
}

/// The same worker for one test alone, which may kill ComfyUI.
pub(crate) async fn alone() -> RwLockWriteGuard<'static, Worker> {
    shared_worker().await.write().await
}

async fn shared_worker() -> &'static RwLock<Worker> {
    SHARED
        .get_or_init(|| async {
            let (data, vars) = fresh_data();
            let mut worker = Worker::start(vars).await;
            worker.data = Some(data);
            worker.ready().await;
            RwLock::new(worker)
        })
        .await
}

impl Worker {
    /// Starts a worker with the given environment.
    pub(crate) async fn start(vars: BTreeMap<String, String>) -> Self {
        let config = Config::from_vars(vars).expect("a good configuration");
        let started = RUNTIME.spawn(async move {
            let app = Arc::new(
                App::build(&config, Arc::new(LogReporter::default()), Jobs::Kept)
                    .await
                    .expect("an app"),
            );
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let url = format!("http://{}", listener.local_addr().expect("an address"));
            tokio::spawn(serve(listener, app.router(), Port::Main, CancellationToken::new()));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let edit_url = format!("http://{}", listener.local_addr().expect("an address"));
            tokio::spawn(serve(listener, app.edit_router(), Port::Edit, CancellationToken::new()));
            (url, edit_url, app)
        });
        let (url, edit_url, app) = started.await.expect("a worker");
        Self {
            url,
            edit_url,
            app,
            data: None,
            http: http().clone(),
            shared: None,
        }
    }

    /// A second worker on the shared ComfyUI, which is left alive and uninterrupted as long as this worker is there. One
    /// for a test: what else it needs is `attached` to this one's ComfyUI, or a test that waits for `alone` stands
    /// between the two.
    pub(crate) async fn beside_shared(more: &[(&str, &str)]) -> Self {
        let shared = shared().await;
        let mut worker = Self::attached(&shared.comfy_url().await, more).await;
        worker.shared = Some(shared);
        worker
    }

    /// A second worker on a ComfyUI, by its address. Whoever calls holds `shared` or `alone` where it is the shared one.
    pub(crate) async fn attached(address: &str, more: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let mut vars: BTreeMap<String, String> = more
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        vars.entry("COMFY_REGISTRY_URL".to_owned())
            .or_insert_with(|| "http://127.0.0.1:1".to_owned());
        vars.insert("DATA_DIR".to_owned(), data.path().display().to_string());
        vars.insert("COMFYUI_URL".to_owned(), address.to_owned());
        let mut worker = Self::start(vars).await;
        worker.data = Some(data);
        worker
    }

    /// The address of this worker's ComfyUI.
    pub(crate) async fn comfy_url(&self) -> String {
        self.app
            .comfy
            .connection()
            .await
            .expect("ComfyUI")
            .client
            .base()
            .to_string()
    }

    /// The process id of this worker's ComfyUI.
    pub(crate) async fn comfy_pid(&self) -> i32 {
        match self.app.comfy.state().await {
            ComfyState::Ready { pid: Some(pid), .. } => i32::try_from(pid).expect("a process id"),
            other => panic!("ComfyUI is not ready: {other:?}"),
        }
    }

    /// Waits until jobs can run; fails with the reason when ComfyUI cannot be started.
    pub(crate) async fn ready(&self) {
        loop {
            let answer = self
                .http
                .get(format!("{}/ping", self.url))
                .send()
                .await
                .expect("an answer");
            match answer.status().as_u16() {
                200 => return,
                204 => tokio::time::sleep(Duration::from_millis(100)).await,
                status => panic!(
                    "ComfyUI cannot be started ({status}): {}\nrun `./start.sh setup` to see it alone",
                    answer.text().await.unwrap_or_default()
                ),
            }
        }
    }

    /// Waits until a job runs.
    pub(crate) async fn has_a_job_running(&self) {
        until("a job runs", async || {
            let health = self.get("/health").await.json::<Value>().await;
            health.is_ok_and(|health| health["jobs"]["inProgress"] == 1)
        })
        .await;
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.http
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .expect("an answer")
    }

    /// Posts a body as it is.
    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Answer {
        self.send(Method::POST, "/runsync", body).await
    }

    /// Asks for a job, or something else that is JSON.
    pub(crate) async fn ask(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "").await
    }

    /// Asks until the answer says that it is over; gives that answer.
    pub(crate) async fn ask_until(&self, path: &str, is_over: impl Fn(&Value) -> bool) -> Value {
        let mut said = Value::Null;
        until("the job is over", async || {
            said = self.ask(path).await.body;
            is_over(&said)
        })
        .await;
        said
    }

    /// Sends a body as it is.
    pub(crate) async fn send(&self, method: Method, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.http.request(method, format!("{}{path}", self.url)).body(body);
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        let body = serde_json::from_str(&text).unwrap_or_else(|error| panic!("no JSON ({error}): {text}"));
        Answer { status, body }
    }

    /// Takes a job in by `/run`; gives its id.
    pub(crate) async fn accept(&self, workflow: Value) -> String {
        let body = json!({"input": {"workflow": workflow}}).to_string();
        let answer = self.send(Method::POST, "/run", body).await;
        assert_eq!((answer.status, text(&answer.body, "status")), (200, "IN_QUEUE"));
        text(&answer.body, "id").to_owned()
    }

    /// The job's status.
    pub(crate) async fn status(&self, id: &str) -> String {
        let answer = self.ask(&format!("/status/{id}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        text(&answer.body, "status").to_owned()
    }

    /// The job at its end.
    pub(crate) async fn end(&self, id: &str) -> Answer {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(&format!("/status-sync/{id}")).await;
            if !["IN_QUEUE", "IN_PROGRESS"].contains(&text(&answer.body, "status")) {
                return answer;
            }
            let body = &answer.body;
            assert!(tokio::time::Instant::now() < deadline, "the job does not end: {body:#}");
        }
    }

    /// Posts `{"input": …}`.
    pub(crate) async fn run(&self, input: Value) -> Answer {
        self.post(json!({ "input": input }).to_string()).await
    }

    /// The bytes of the first image of an answer, by `/view`.
    pub(crate) async fn first_image(&self, answer: &Answer) -> Vec<u8> {
        let image = &answer.images()[0];
        let (filename, subfolder, folder) = (text(image, "filename"), text(image, "subfolder"), text(image, "type"));
        let response = self
            .get(&format!(
                "/view?filename={filename}&subfolder={subfolder}&type={folder}"
            ))
            .await;
        assert_eq!(response.status(), 200, "{filename}");
        response.bytes().await.expect("a file").to_vec()
    }

    /// Where this worker's ComfyUI keeps its files.
    pub(crate) fn output(&self) -> &Path {
        &self.app.comfy.folders().expect("a ComfyUI of ours").output
    }
}

impl Answer {
    /// The answer, if it is a success.
    #[track_caller]
    pub(crate) fn completed(self) -> Self {
        assert_eq!(
            (self.status, &self.body["status"]),
            (200, &json!("COMPLETED")),
            "{:#}",
            self.body
        );
        self
    }

    pub(crate) fn images(&self) -> &[Value] {
        self.body["output"]["images"].as_array().map_or(&[], Vec::as_slice)
    }

    /// `error` of an answer that has one.
    #[track_caller]
    pub(crate) fn error(&self) -> &str {
        self.body["error"]
            .as_str()
            .unwrap_or_else(|| panic!("no error: {:#}", self.body))
    }
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A graph of one test node and a SaveImage node.
#[expect(clippy::needless_pass_by_value, reason = "it is given a fresh one each time")]
pub(crate) fn graph(class: &str, inputs: Value) -> Value {
    json!({
        "1": {"class_type": class, "inputs": inputs},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": format!("test/{class}")}},
    })
}

/// A graph that takes a while and tells how far it is. Seeds differ, so that nothing is cached.
pub(crate) fn slow(steps: u32, ms_per_step: u32, seed: u32) -> Value {
    graph(
        "SlowProgress",
        json!({"steps": steps, "ms_per_step": ms_per_step, "preview": true, "seed": seed}),
    )
}

/// Waits for a condition; panics when it does not come true.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
