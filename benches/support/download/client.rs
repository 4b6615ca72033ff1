//! Those who fetch: our downloader, and the rivals.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use qwen_image_worker::config::Origin;
use qwen_image_worker::models::download::{Downloader, Progress, Settings, Source, Wanted};
use tokio_util::sync::CancellationToken;

use super::measure::Run;
use super::server::{Server, Set};

/// Who fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// Our downloader.
    Ours,
    /// Hugging Face's own command line, without Xet.
    Hf,
    /// aria2 with 16 connections a file.
    Aria2,
    /// The same, which checks hashes and tries again.
    Aria2Checked,
    /// curl, all files at once.
    Curl,
}

/// Our downloader and those rivals that are on `PATH`; says which are not.
pub(crate) fn found() -> Vec<Client> {
    let all = [
        Client::Ours,
        Client::Hf,
        Client::Aria2,
        Client::Aria2Checked,
        Client::Curl,
    ];
    all.into_iter()
        .filter(|client| {
            let there = client.program().is_none_or(|name| on_path(name).is_some());
            if !there {
                println!("{} is not on PATH and left out", client.name());
            }
            there
        })
        .collect()
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

impl Client {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Hf => "hf",
            Self::Aria2 => "aria2 -x16",
            Self::Aria2Checked => "aria2 -x16 with hashes",
            Self::Curl => "curl",
        }
    }

    fn program(self) -> Option<&'static str> {
        match self {
            Self::Ours => None,
            Self::Hf => Some("hf"),
            Self::Aria2 | Self::Aria2Checked => Some("aria2c"),
            Self::Curl => Some("curl"),
        }
    }

    /// Whether it has one connection a file.
    pub(crate) fn is_slow(self) -> bool {
        matches!(self, Self::Hf | Self::Curl)
    }

    /// Fetches a set into a folder, or goes on with it.
    pub(crate) fn command(self, server: &Server, set: Set, folder: &Path) -> Command {
        let mut command = match self.program() {
            Some(program) => Command::new(program),
            None => Command::new(std::env::current_exe().expect("its own path")),
        };
        let url = |path: &str| format!("{}/{}/resolve/main/{path}", server.url, set.repo());
        match self {
            Self::Ours => {
                command.args([super::CLIENT, &server.url, set.repo()]).arg(folder);
            }
            Self::Hf => {
                command
                    .args(["download", set.repo(), "--local-dir"])
                    .arg(folder)
                    .env("HF_HOME", folder.join(".home"))
                    .env("HF_ENDPOINT", &server.url)
                    .env("HF_HUB_DISABLE_XET", "1")
                    .env("HF_HUB_DISABLE_TELEMETRY", "1")
                    .env("HF_HUB_DISABLE_PROGRESS_BARS", "1");
            }
            Self::Aria2 | Self::Aria2Checked => {
                let mut list = String::new();
                for (of, path, hash) in &server.hashes {
                    if *of == set {
                        let _ = writeln!(list, "{}\n  out={path}", url(path));
                        if self == Self::Aria2Checked {
                            let _ = writeln!(list, "  checksum=sha-256={hash}");
                        }
                    }
                }
                let file = folder.join(".list");
                std::fs::write(&file, list).expect("a file");
                command
                    .args(["-x16", "-s16", "-j4", "-c", "-q", "--file-allocation=falloc", "-d"])
                    .arg(folder)
                    .arg("-i")
                    .arg(file);
                if self == Self::Aria2Checked {
                    command.args(["-V", "--retry-wait=1", "-m5"]);
                }
            }
            Self::Curl => {
                command.args(["-sSfL", "-Z", "-C", "-", "--create-dirs"]);
                for (path, _) in set.files() {
                    command.arg("-o").arg(folder.join(path)).arg(url(path));
                }
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if self == Self::Ours {
            command.stderr(Stdio::inherit());
        }
        command
    }

    /// Looks at what was fetched: ours must be right to the byte, of the rivals' the sizes are looked at.
    pub(crate) fn check(self, set: Set, folder: &Path, run: &Run) {
        if !run.succeeded {
            // curl does so where a file was there already: the server has no range after its end.
            println!("  {} ended with a failure", self.name());
        }
        for (path, content) in set.files() {
            let file = folder.join(path);
            if self == Self::Ours {
                assert!(run.succeeded);
                assert_eq!(content.differs(&file), None);
            } else {
                let size = std::fs::metadata(&file).map(|file| file.len()).unwrap_or_default();
                if size != content.size() {
                    println!("  {}: {path} has {size} bytes, not {}", self.name(), content.size());
                }
            }
        }
    }
}

/// Our downloader, as the process that this program is then.
pub(crate) fn fetch(hub: &str, repo: &str, folder: &Path) {
    let wanted = [Set::Large, Set::Small].into_iter().find(|set| set.repo() == repo);
    let wanted = wanted.expect("a set").files().map(|(path, _)| Wanted {
        source: Source {
            origin: Origin::Hub {
                repo: repo.to_owned(),
                revision: "main".to_owned(),
                path: path.to_owned(),
            },
            token: None,
        },
        target: folder.join(path),
        size: None,
        sha256: None,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let downloader = Downloader::new(Settings::new(hub.parse().expect("a URL"), None)).expect("a client");
        let progress = |_: Progress<'_>| {};
        for (wanted, result) in downloader
            .fetch(wanted.into(), &progress, CancellationToken::new())
            .await
        {
            result.unwrap_or_else(|error| panic!("{}: {error}", wanted.target.display()));
        }
    });
}
