//! A machine for tests: the real uv and a real interpreter, small wheels in a folder, and a registry on loopback.

use std::collections::HashMap;
use std::fs;
use std::io::{Cursor, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::{Path as Segment, Query};
use axum::http::StatusCode;
use axum::routing::get;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::install::{Effort, NodesOptions, ensure, install};
use super::set::{Layout, NodeSet};
use crate::comfy::install::{Installation, Pins};
use crate::config::{Config, NodePack};
use crate::telemetry::report::SilentReporter;

/// The uv on the `PATH`, else one that is installed once for all tests.
static UV: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(uv) = std::env::split_paths(&path)
        .map(|folder| folder.join("uv"))
        .find(|uv| uv.is_file())
    {
        return uv;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/uv-for-tests");
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    let lock = fs::File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let uv = folder.join("bin/uv");
    if !uv.is_file() {
        let list = folder.with_extension("txt");
        fs::write(&list, Pins::default().uv).unwrap();
        ran(Command::new("python3").args(["-m", "venv"]).arg(&folder));
        ran(Command::new(folder.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--require-hashes", "-r"])
            .arg(&list));
    }
    uv
});

pub(super) fn ran(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?}: {out}{err}");
    out.trim().to_owned()
}

/// A zip file of these files.
pub(super) fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A machine with a ComfyUI whose environment has `demo-torch` and `demo-numpy`, and a uv that reaches nothing but wheels in
/// a folder.
pub(super) struct Bench {
    temp: tempfile::TempDir,
    pub(super) options: NodesOptions,
    pub(super) base: Installation,
}

impl Bench {
    pub(super) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        for name in ["bin", "wheels", "ComfyUI"] {
            fs::create_dir(at(name)).unwrap();
        }
        let wheels = at("wheels");
        for (name, version, needs) in [
            ("demo_torch", "2.8.0+cpu", &[][..]),
            ("demo_numpy", "2.1", &[]),
            ("demo_numpy", "1.9", &[]),
            ("demo_gguf", "1.0", &["demo-numpy>=1"]),
            ("demo_image", "1.0", &[]),
            ("demo_image", "2.0", &[]),
            ("demo_old", "1.0", &["demo-numpy<2"]),
        ] {
            wheel(&wheels, name, version, needs);
        }
        // Counts its calls; without a network it knows only what it is told to do offline.
        let uv = format!(
            "#!/bin/sh\necho \"$*\" >> '{0}/calls'\nexport UV_CACHE_DIR='{0}/uv'\ncase \"$*\" in\n\
             'pip '*) [ -e '{0}/hang' ] && touch '{0}/hanging' && sleep 60\n\
             case \"$*\" in *--offline*) ;; *) [ -e '{0}/no-network' ] && echo 'error: Failed to fetch: `x`' && echo '  cause: dns error' && exit 2;; esac\n\
             exec '{1}' \"$@\" --no-index --find-links '{0}/wheels';;\n*) exec '{1}' \"$@\";;\nesac\n",
            temp.path().display(),
            UV.display()
        );
        fs::write(at("bin/uv"), uv).unwrap();
        fs::set_permissions(at("bin/uv"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(at("ComfyUI/main.py"), "").unwrap();
        ran(Command::new(&*UV)
            .args(["venv", "--quiet", "--python", "python3"])
            .arg(at("base")));
        let python = at("base/bin/python");
        ran(Command::new(at("bin/uv"))
            .args(["pip", "install", "--python"])
            .arg(&python)
            .args(["demo-torch", "demo-numpy==2.1"]));
        let path =
            std::env::join_paths([at("bin"), "/usr/local/bin".into(), "/usr/bin".into(), "/bin".into()]).unwrap();
        let config = config(&[]);
        Self {
            options: NodesOptions {
                dir: at("data/nodes"),
                search_path: path,
                ..NodesOptions::new(&config)
            },
            base: Installation {
                root: at("ComfyUI"),
                python,
                version: "0.30.0".to_owned(),
                commit: None,
                reference: None,
                lock: None,
            },
            temp,
        }
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// A pack in a folder of its own; a `/` before the name of a file.
    pub(super) fn folder(&self, name: &str, requirements: &str, files: &[(&str, &str)]) -> NodePack {
        let folder = self.at("packs").join(name);
        fs::create_dir_all(&folder).unwrap();
        for (file, content) in [("requirements.txt", requirements), ("__init__.py", "")]
            .iter()
            .chain(files)
        {
            fs::write(folder.join(file), content).unwrap();
        }
        folder.display().to_string().parse().unwrap()
    }

    pub(super) async fn ensure(&self) -> NodeSet {
        ensure(&self.options, &self.base, &SilentReporter).await.unwrap()
    }

    pub(super) async fn install(&self, effort: Effort) -> NodeSet {
        install(&self.options, &self.base, effort, &SilentReporter)
            .await
            .unwrap()
    }

    /// How often uv ran, and for what.
    pub(super) fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.at("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    pub(super) fn sets(&self) -> usize {
        fs::read_dir(self.at("data/nodes/sets")).map_or(0, Iterator::count)
    }

    pub(super) fn in_force(&self) -> Option<NodeSet> {
        Some(Layout::new(&self.options.dir).in_force()?.0)
    }

    pub(super) fn say(&self, name: &str) {
        fs::write(self.at(name), "").unwrap();
    }

    pub(super) fn unsay(&self, name: &str) {
        fs::remove_file(self.at(name)).unwrap();
    }
}

pub(super) fn config(vars: &[(&str, &str)]) -> Config {
    let vars = [("HOME", "/nonexistent")].iter().chain(vars);
    Config::from_vars(vars.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).unwrap()
}

pub(super) fn wheel(folder: &Path, name: &str, version: &str, needs: &[&str]) {
    let info = format!("{name}-{version}.dist-info");
    let needs: Vec<String> = needs.iter().map(|need| format!("Requires-Dist: {need}\n")).collect();
    let needs = needs.concat();
    let files = [
        (format!("{name}.py"), format!("version = {version:?}\n")),
        (
            format!("{info}/METADATA"),
            format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"),
        ),
        (
            format!("{info}/WHEEL"),
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_owned(),
        ),
        (
            format!("{info}/RECORD"),
            format!("{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"),
        ),
    ];
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_str()))
        .collect();
    fs::write(folder.join(format!("{name}-{version}-py3-none-any.whl")), zip(&files)).unwrap();
}

/// A source package in version 1.0, whose own `backend.py` builds it; what it needs is known without that.
pub(super) fn sdist(folder: &Path, name: &str, backend: &str) {
    let facts = format!("[project]\nname = {name:?}\nversion = \"1.0\"\n");
    let system = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";
    let files = [
        (
            "PKG-INFO",
            format!("Metadata-Version: 2.2\nName: {name}\nVersion: 1.0\n"),
        ),
        ("pyproject.toml", facts + system),
        ("backend.py", backend.to_owned()),
    ];
    let stem = format!("{name}-1.0");
    let file = fs::File::create(folder.join(format!("{stem}.tar.gz"))).unwrap();
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()));
    for (file, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{stem}/{file}"), content.as_bytes())
            .unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
}

pub(super) fn failures(set: &NodeSet) -> Vec<(&str, &str)> {
    set.failures()
        .map(|(pack, reason)| (pack.name.as_str(), reason))
        .collect()
}

/// What Python says of an expression in this environment.
pub(super) fn python(python: &Path, code: &str) -> String {
    ran(Command::new(python).args(["-c", code]))
}

/// A registry with one pack, `good` in version 1.0.0, whose archive is `archive`.
pub(super) async fn registry(archive: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let download = format!("{address}/good.zip");
    let release = async move |Segment(id): Segment<String>, Query(query): Query<HashMap<String, String>>| {
        let version = query.get("version").map_or("1.0.0", String::as_str);
        if id != "good" || version != "1.0.0" {
            return Err(StatusCode::NOT_FOUND);
        }
        Ok(axum::Json(
            serde_json::json!({ "node_id": id, "version": "1.0.0", "downloadUrl": download }),
        ))
    };
    let router = Router::new()
        .route("/nodes/{id}/install", get(release))
        .route("/good.zip", get(async move || archive.clone()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}
