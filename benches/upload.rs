//! The upload of one large file by our `Bucket`, and by the AWS CLI beside it, to the same server. Prints figures; the
//! goal is for a release build.
//!
//! The server is s3s-fs on loopback, in a process of its own that is this program too: it checks signatures, hashes
//! and writes to disk. The AWS CLI comes from PyPI, into a virtual environment below the target folder.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::error_handling::HandleError;
use axum::http::StatusCode;
use qwen_image_worker::config::Config;
use qwen_image_worker::delivery::s3::{Bucket, Content, Upload};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;

/// Names the mode in which this program is the server.
const SERVER: &str = "--s3-server";
/// The version of the AWS CLI.
const AWS_CLI: &str = "awscli==1.46.2";
/// The size of the file, in bytes.
const SIZE: usize = 1_000_000_000;
/// How often each uploads it, in turn.
const ROUNDS: usize = 3;
const KEY_ID: &str = "AKIA4711";
const SECRET: &str = "secret-0815";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    if let [mode, folder] = &arguments[..]
        && mode == SERVER
    {
        runtime.block_on(serve(Path::new(folder)));
        return;
    }
    let aws = aws_cli();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("film.mp4");
    write_file(&file);
    let objects = folder.path().join("objects");
    std::fs::create_dir_all(objects.join("results")).expect("a folder");
    let server = Server::start(&objects);
    let bucket = server.bucket();

    let begun = Instant::now();
    run(Command::new(&aws).arg("--version").stdout(Stdio::null()));
    println!("start of the AWS CLI alone   {:>6.2} s", begun.elapsed().as_secs_f64());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let upload = Upload {
            subfolder: String::new(),
            filename: "film.mp4".to_owned(),
            content: Content::File(file.clone()),
        };
        let begun = Instant::now();
        runtime
            .block_on(bucket.upload("ours", vec![upload]))
            .expect("an upload");
        ours.push(begun.elapsed());
        let begun = Instant::now();
        server.aws_upload(&aws, &file);
        theirs.push(begun.elapsed());
        for by in ["ours", "theirs"] {
            let object = objects.join("results").join(by);
            let length = std::fs::metadata(object.join("film.mp4")).expect("the object").len();
            assert_eq!(length, SIZE as u64, "{by}");
            std::fs::remove_dir_all(object).expect("the object");
        }
    }
    println!("1 GB by the worker, in order {}", shown(&mut ours));
    println!(
        "1 GB by the AWS CLI          {}  (goal: ours at most 10 % more)",
        shown(&mut theirs)
    );
}

/// The times in order, and the one in the middle.
fn shown(times: &mut [Duration]) -> String {
    let all: Vec<String> = times.iter().map(|time| format!("{:.2}", time.as_secs_f64())).collect();
    times.sort_unstable();
    format!(
        "{} s, middle {:.2} s",
        all.join(" "),
        times[times.len() / 2].as_secs_f64()
    )
}

/// Bytes that do not repeat within a part.
fn write_file(path: &Path) {
    let mut file = std::fs::File::create(path).expect("a file");
    let mut state = 4711_u64;
    let piece: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(SIZE / 100)
    .collect();
    for _ in 0..100 {
        file.write_all(&piece).expect("room on the disk");
    }
}

/// The AWS CLI, installed once.
fn aws_cli() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(AWS_CLI);
    let aws = folder.join("bin/aws");
    if !aws.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", AWS_CLI]));
    }
    aws
}

fn run(command: &mut Command) {
    let status = command.status().expect("python3 with its venv module");
    assert!(status.success(), "{command:?}");
}

async fn serve(folder: &Path) {
    let mut service = S3ServiceBuilder::new(FileSystem::new(folder).expect("a folder"));
    service.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
    let failed = |error| async move { (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}")) };
    let router = Router::new().fallback_service(HandleError::new(service.build(), failed));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    axum::serve(listener, router).await.expect("it serves");
}

struct Server {
    process: Child,
    endpoint: String,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("its own path"))
            .arg(SERVER)
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs");
        let mut line = String::new();
        let output = process.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("an address");
        let endpoint = format!("http://{}", line.trim());
        Self { process, endpoint }
    }

    fn bucket(&self) -> Bucket {
        let vars = [
            ("BUCKET_ENDPOINT_URL", self.endpoint.as_str()),
            ("BUCKET_ACCESS_KEY_ID", KEY_ID),
            ("BUCKET_SECRET_ACCESS_KEY", SECRET),
            ("BUCKET_NAME", "results"),
        ];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_vars(vars).expect("a good configuration");
        Bucket::new(&config.delivery.bucket.expect("a bucket")).expect("a bucket")
    }

    fn aws_upload(&self, aws: &Path, file: &Path) {
        let mut command = Command::new(aws);
        command
            .args(["s3", "cp", "--quiet", "--endpoint-url", &self.endpoint])
            .arg(file)
            .arg("s3://results/theirs/film.mp4")
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        run(&mut command);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already where one of these fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
