//! The binary itself, as a process that tests may kill.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, Command};

use super::control_group::Group;
use super::{Answer, PATIENCE, text, until};

/// The binary with an environment of its own.
pub(crate) fn binary(vars: &BTreeMap<String, String>) -> Command {
    with_environment(Command::new(env!("CARGO_BIN_EXE_qwen-image-worker")), vars)
}

/// What the binary shows at a terminal that knows no colours. Its results are not among it.
pub(crate) async fn shown_at_a_terminal(arguments: &str, vars: &BTreeMap<String, String>) -> String {
    let mut script = Command::new("script");
    let line = format!("{} {arguments} > /dev/null", env!("CARGO_BIN_EXE_qwen-image-worker"));
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let mut script = with_environment(script, vars);
    let done = script.env("TERM", "xterm").env("NO_COLOR", "1").output();
    let done = tokio::time::timeout(PATIENCE, done).await.expect("in time");
    let done = done.expect("script, of the package util-linux or bsdutils");
    let shown = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{shown}");
    shown
}

fn with_environment(mut command: Command, vars: &BTreeMap<String, String>) -> Command {
    for name in [
        "COMFYUI_DIR",
        "COMFYUI_URL",
        "COMFYUI_PYTHON",
        "RUNPOD_POD_ID",
        "LOG_LEVEL",
        "HF_TOKEN",
        "HF_ENDPOINT",
        "HF_HUB_CACHE",
        "MODEL_SET",
        "MODELS",
        "MODEL_DIR",
        "MODEL_MANIFEST",
    ] {
        command.env_remove(name);
    }
    command
        .envs(vars)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Reads a log on to the line that holds `mark`; gives what follows it there, to the next semicolon. The lines before
/// are added to `log`.
pub(crate) async fn said_after(mark: &str, lines: &mut Lines<impl AsyncBufRead + Unpin>, log: &mut String) -> String {
    loop {
        let line = lines.next_line().await.expect("UTF-8");
        let line = line.unwrap_or_else(|| panic!("it ended before it said {mark:?}:\n{log}"));
        if let Some((_, rest)) = line.split_once(mark) {
            return rest.split(';').next().unwrap_or_default().to_owned();
        }
        log.push_str(&line);
        log.push('\n');
    }
}

/// `serve` in a process of its own.
pub(crate) struct Served {
    pub(crate) url: String,
    child: Child,
    http: reqwest::Client,
}

impl Served {
    /// Starts `serve` and waits until it listens; its ComfyUI may not be ready yet.
    pub(crate) async fn start(vars: &BTreeMap<String, String>) -> Self {
        Self::start_as(&["serve"], vars).await
    }

    /// The same with another command, or none, that comes to the same thing.
    pub(crate) async fn start_as(command: &[&str], vars: &BTreeMap<String, String>) -> Self {
        Self::listening(binary(vars).args(command)).await
    }

    /// Starts `serve` with a disk of its own of so many MiB for `DATA_DIR`.
    pub(crate) async fn start_on_a_small_disk(mib: u32, vars: &BTreeMap<String, String>) -> Self {
        let mount = format!("mount -t tmpfs -o size={mib}m tmpfs \"$DATA_DIR\"");
        // Who is not root becomes it in a namespace of users.
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        let namespaces: &[&str] = if is_root {
            &["--mount"]
        } else {
            &["--user", "--map-root-user", "--mount"]
        };
        let within = |script: &str| {
            let mut command = with_environment(Command::new("unshare"), vars);
            let worker = env!("CARGO_BIN_EXE_qwen-image-worker");
            command.args(namespaces).args(["sh", "-c", script, worker]);
            command
        };
        let tried = within(&mount)
            .output()
            .await
            .expect("unshare, of the package util-linux");
        assert!(
            tried.status.success(),
            "a disk cannot be mounted ({}); run the tests as root, or allow it: \
             sudo sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0",
            String::from_utf8_lossy(&tried.stderr).trim()
        );
        Self::listening(&mut within(&format!("{mount} && exec \"$0\" serve"))).await
    }

    /// Starts `serve` in a control group.
    pub(crate) async fn start_in(group: &Group, vars: &BTreeMap<String, String>) -> Self {
        let mut command = with_environment(Command::new("sh"), vars);
        let script = format!("{} && exec \"$0\" serve", group.enter());
        command.args(["-c", &script, env!("CARGO_BIN_EXE_qwen-image-worker")]);
        Self::listening(&mut command).await
    }

    /// The path as the process itself sees it, where it has disks of its own.
    pub(crate) fn its_own(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.child.id().expect("it runs"));
        Path::new(&root).join(path.strip_prefix("/").expect("a whole path"))
    }

    async fn listening(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the binary runs");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut log = String::new();
        let url = said_after("listening on ", &mut lines, &mut log).await;
        // Read on, or the pipe fills up.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .expect("a client");
        Self { url, child, http }
    }

    /// Waits until its ComfyUI is ready; gives ComfyUI's process id.
    pub(crate) async fn comfy_pid(&self) -> i32 {
        let mut pid = 0;
        until("ComfyUI is ready", async || {
            let health = self.ask("/health").await.body;
            pid = health["comfyui"]["pid"]
                .as_i64()
                .and_then(|pid| i32::try_from(pid).ok())
                .unwrap_or_default();
            pid > 0
        })
        .await;
        pid
    }

    /// Sends a request; an error is that of a process that was killed.
    pub(crate) async fn try_send(&self, method: Method, path: &str, body: String) -> reqwest::Result<Answer> {
        let request = self.http.request(method, format!("{}{path}", self.url)).body(body);
        let answer = request.send().await?;
        let (status, retry_after) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
        let mut body: Value = answer.json().await?;
        if retry_after {
            body["retry-after"] = json!(true);
        }
        Ok(Answer { status, body })
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: String) -> Answer {
        self.try_send(method, path, body).await.expect("an answer")
    }

    pub(crate) async fn ask(&self, path: &str) -> Answer {
        self.send(Method::GET, path, String::new()).await
    }

    /// Takes a job in by `/run`; gives its id.
    pub(crate) async fn accept(&self, body: Value) -> String {
        let answer = self.send(Method::POST, "/run", body.to_string()).await;
        assert_eq!(
            (answer.status, text(&answer.body, "status")),
            (200, "IN_QUEUE"),
            "{answer:?}"
        );
        text(&answer.body, "id").to_owned()
    }

    /// The job's status.
    pub(crate) async fn status(&self, id: &str) -> String {
        text(&self.ask(&format!("/status/{id}")).await.body, "status").to_owned()
    }

    /// The job at its end.
    pub(crate) async fn end(&self, id: &str) -> Answer {
        loop {
            let answer = self.ask(&format!("/status-sync/{id}")).await;
            if !["IN_QUEUE", "IN_PROGRESS"].contains(&text(&answer.body, "status")) {
                return answer;
            }
        }
    }

    /// Jobs that have not ended.
    pub(crate) async fn unfinished(&self) -> usize {
        let jobs = &self.ask("/health").await.body["jobs"];
        let count = |state: &str| jobs[state].as_u64().and_then(|count| usize::try_from(count).ok());
        count("inQueue")
            .zip(count("inProgress"))
            .map_or(0, |(waiting, running)| waiting + running)
    }

    /// The worker's process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().expect("it runs").cast_signed()
    }

    /// `kill -9`; it is gone when this returns.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = self.child.id().expect("it runs").cast_signed();
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
    }

    /// Waits for its end.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        let end = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        end.expect("in time").expect("it ends").code()
    }
}

/// Whether a process runs.
pub(crate) fn alive(pid: i32) -> bool {
    // A process that nobody has waited for yet is dead all the same.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
