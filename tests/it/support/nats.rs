//! A real NATS server with `JetStream`, on this machine, which tests may kill.

use std::path::PathBuf;
use std::process::Stdio;

use async_nats::jetstream;
use qwen_image_worker::fleet::STREAM;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::clients::debian;
use super::{json_at, until};

/// What opens it.
pub(crate) const USER: &str = "fleet";
pub(crate) const PASSWORD: &str = "0123456789-of-the-fleet";

pub(crate) struct Nats {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    monitoring: u16,
    child: Child,
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

impl Nats {
    pub(crate) async fn start() -> Self {
        let program = debian("nats-server", "nats-server").await;
        let folder = tempfile::tempdir().expect("a folder");
        let (port, monitoring) = (free_port(), free_port());
        Self::configure(&folder, (port, monitoring), &stored_in(&folder));
        let child = run(&program, &folder);
        let nats = Self {
            program,
            folder,
            port,
            monitoring,
            child,
        };
        nats.answers().await;
        nats
    }

    fn configure(folder: &TempDir, (port, monitoring): (u16, u16), jetstream: &str) {
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitoring}\"\n{jetstream}\n\
             authorization {{ user: \"{USER}\", password: \"{PASSWORD}\" }}\n"
        );
        std::fs::write(folder.path().join("nats.conf"), config).expect("a file");
    }

    /// Kills it, and starts it again with `JetStream` or without.
    pub(crate) async fn start_again_with_jetstream(&mut self, is_on: bool) {
        self.kill().await;
        let jetstream = if is_on { stored_in(&self.folder) } else { String::new() };
        Self::configure(&self.folder, (self.port, self.monitoring), &jetstream);
        self.start_again().await;
    }

    /// The address with what opens it.
    pub(crate) fn url(&self) -> String {
        format!("nats://{USER}:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    /// The address without.
    pub(crate) fn bare_url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    async fn answers(&self) {
        let url = format!("http://127.0.0.1:{}/healthz", self.monitoring);
        until("the broker answers", async || {
            super::http()
                .get(&url)
                .send()
                .await
                .is_ok_and(|answer| answer.status() == 200)
        })
        .await;
    }

    /// `kill -9`; it is gone when this returns.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// Starts it again on what it had.
    pub(crate) async fn start_again(&mut self) {
        self.child = run(&self.program, &self.folder);
        self.answers().await;
    }

    /// A client of its own.
    pub(crate) async fn client(&self) -> jetstream::Context {
        let options = async_nats::ConnectOptions::with_user_and_password(USER.to_owned(), PASSWORD.to_owned());
        let client = options.connect(self.bare_url()).await.expect("it lets us in");
        jetstream::new(client)
    }

    /// What KEDA reads of the stream: the messages in it, those that wait, and those that somebody has.
    pub(crate) async fn jobs(&self) -> [u64; 3] {
        let url = format!("http://127.0.0.1:{}/jsz?acc=$G&consumers=true", self.monitoring);
        let told = json_at(&url).await;
        let account = &told["account_details"][0];
        let streams = account["stream_detail"].as_array().map_or(&[][..], Vec::as_slice);
        let stream = streams
            .iter()
            .find(|stream| stream["name"] == STREAM)
            .unwrap_or(&Value::Null);
        let consumer = &stream["consumer_detail"][0];
        let number = |value: &Value| value.as_u64().unwrap_or(u64::MAX);
        [
            number(&stream["state"]["messages"]),
            number(&consumer["num_pending"]),
            number(&consumer["num_ack_pending"]),
        ]
    }
}

fn stored_in(folder: &TempDir) -> String {
    format!(
        "jetstream {{ store_dir: \"{}\" }}",
        folder.path().join("store").display()
    )
}

fn run(program: &PathBuf, folder: &TempDir) -> Child {
    Command::new(program)
        .arg("--config")
        .arg(folder.path().join("nats.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("nats-server runs")
}
