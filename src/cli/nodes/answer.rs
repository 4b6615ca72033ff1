//! What `nodes` answers: a row for each pack, as a table or as JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::comfy::nodes::report::{NodesReport, PackReport, PackState};
use crate::comfy::nodes::{Checked, InstalledPack, Status};
use crate::config::{NodePack, PackOrigin, is_commit};

/// How the answer looks.
#[derive(Debug, Args)]
pub(in crate::cli) struct How {
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

/// One pack of an answer.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    source: String,
    #[serde(skip)]
    folder: PathBuf,
    /// How long its import took at the last start, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    /// The node classes that it brought at the last start.
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<Vec<String>>,
    /// What is wrong, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// A whole answer.
#[derive(Debug, Default, Serialize)]
pub(super) struct Answer {
    packs: Vec<Row>,
    /// Python packages that the packs need beside `ComfyUI`'s own.
    #[serde(skip_serializing_if = "Option::is_none")]
    packages: Option<Vec<String>>,
    notes: Vec<String>,
    /// What keeps the whole from being what is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

pub(super) fn write(text: &str) {
    // A reader that closes the pipe early has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

impl Row {
    /// `good` is the state of one without a failure.
    fn new(pack: InstalledPack, good: &'static str) -> Self {
        let state = if pack.failure.is_some() { "failed" } else { good };
        Self {
            name: pack.pack.name.clone(),
            state,
            version: version(&pack),
            source: source(&pack.pack),
            folder: pack.folder,
            seconds: None,
            classes: None,
            error: pack.failure,
            notes: pack.notes,
        }
    }

    /// One that nobody asked the worker for, as the last start found it.
    fn found(pack: &PackReport) -> Self {
        Self {
            name: pack.name.clone(),
            state: "",
            version: pack.version.clone(),
            source: pack.folder.display().to_string(),
            folder: pack.folder.clone(),
            seconds: None,
            classes: None,
            error: None,
            notes: Vec::new(),
        }
    }

    /// With what became of it at the last start.
    fn take(&mut self, pack: &PackReport, counted: bool) {
        self.state = match pack.state {
            PackState::Loaded => "loaded",
            PackState::NoNodes => "no nodes",
            PackState::Failed | PackState::NotInstalled => "failed",
        };
        self.seconds = pack.seconds;
        self.classes = counted.then(|| pack.classes.clone());
        if self.version.is_none() {
            self.version.clone_from(&pack.version);
        }
        if let Some(failure) = pack.failure().filter(|_| self.error.is_none()) {
            let step = pack.next_step().map(|step| format!(". {step}"));
            self.error = Some(failure.trim_end_matches('.').to_owned() + &step.unwrap_or_default());
        }
    }

    /// `12 classes, 0.4 s`
    fn brought(&self) -> String {
        let classes = self.classes.as_ref().map(|classes| match classes.len() {
            1 => "1 class".to_owned(),
            classes => format!("{classes} classes"),
        });
        let seconds = self.seconds.map(|seconds| format!("{seconds:.1} s"));
        classes.into_iter().chain(seconds).collect::<Vec<_>>().join(", ")
    }
}

impl Answer {
    pub(super) fn of(status: Status) -> Self {
        let good = if status.set.is_some() { "installed" } else { "missing" };
        Self {
            packs: status.packs.into_iter().map(|pack| Row::new(pack, good)).collect(),
            packages: None,
            notes: status.notes,
            trouble: status.trouble,
        }
    }

    pub(super) fn of_check(checked: Checked) -> Self {
        Self {
            packs: checked.packs.into_iter().map(|pack| Row::new(pack, "good")).collect(),
            packages: Some(checked.packages),
            notes: checked.notes,
            trouble: checked.trouble,
        }
    }

    /// With what became of the packs at the last start, if that was with these.
    pub(super) fn with(mut self, report: &NodesReport) -> Self {
        for pack in &report.packs {
            let row = self.packs.iter_mut().find(|row| row.folder == pack.folder);
            match row {
                Some(row) => row.take(pack, report.counted),
                None if !pack.asked => {
                    let mut row = Row::found(pack);
                    row.take(pack, report.counted);
                    self.packs.push(row);
                }
                // Of a set that is not wanted any more.
                None => {}
            }
        }
        self
    }

    pub(super) fn print(&self, how: &How) -> anyhow::Result<()> {
        write(&if how.json {
            serde_json::to_string_pretty(self)? + "\n"
        } else {
            self.table()
        });
        Ok(())
    }

    fn table(&self) -> String {
        let width = |of: fn(&Row) -> usize| self.packs.iter().map(of).max().unwrap_or_default();
        let states = width(|row| row.state.len());
        let names = width(|row| row.name.chars().count());
        let versions = width(|row| row.version.as_deref().unwrap_or("-").len());
        let brought = width(|row| row.brought().len());
        let mut text = String::new();
        for row in &self.packs {
            let version = row.version.as_deref().unwrap_or("-");
            let _ = writeln!(
                text,
                "{:states$}  {:names$}  {version:versions$}  {:brought$}{}{}",
                row.state,
                row.name,
                row.brought(),
                if brought > 0 { "  " } else { "" },
                row.source
            );
            for line in row.error.iter().chain(&row.notes) {
                let _ = writeln!(text, "{:states$}  {line}", "");
            }
        }
        for package in self.packages.iter().flatten() {
            let _ = writeln!(text, "Python package: {package}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "Note: {note}");
        }
        if let Some(trouble) = &self.trouble {
            let _ = writeln!(text, "Failed: {trouble}");
        }
        text
    }
}

/// A version, or the beginning of a commit.
fn version(pack: &InstalledPack) -> Option<String> {
    let version = pack.version()?;
    Some(if is_commit(version) { &version[..10] } else { version }.to_owned())
}

/// Where it comes from, without the version.
fn source(pack: &NodePack) -> String {
    match &pack.origin {
        PackOrigin::Registry { id, .. } => format!("Comfy Registry: {id}"),
        PackOrigin::Git { repository, .. } => {
            let pack = NodePack {
                name: pack.name.clone(),
                origin: PackOrigin::Git {
                    repository: repository.clone(),
                    reference: None,
                },
            };
            pack.to_string()
        }
        PackOrigin::Folder(folder) => folder.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_versions_sources_and_what_is_wrong() {
        let commit = "3f20054214fec9f9234fd3841ae6f1e4287948f6";
        let pack = |text: &str, failure: Option<&str>, note: Option<&str>| InstalledPack {
            pack: text.parse().unwrap(),
            folder: "/data/nodes/x".into(),
            failure: failure.map(str::to_owned),
            notes: note.map(str::to_owned).into_iter().collect(),
            script_failed: false,
            may_pass: false,
        };
        let git = format!("https://me:word@git.example.com/ComfyUI-KJNodes.git@{commit}");
        let answer = Answer {
            packs: [
                Row::new(
                    pack("comfyui-gguf@1.1.4", None, Some("it has an install.py")),
                    "installed",
                ),
                Row::new(pack(&git, Some("it needs `numpy<2`"), None), "installed"),
                Row::new(pack("/packs/mine", None, None), "installed"),
            ]
            .into(),
            packages: Some(vec!["gguf==0.19.0".to_owned()]),
            notes: vec!["a note".to_owned()],
            trouble: Some("the packages of the manifest are left out".to_owned()),
        };
        insta::assert_snapshot!(answer.table(), @r"
        installed  comfyui-gguf     1.1.4       Comfy Registry: comfyui-gguf
                   it has an install.py
        failed     ComfyUI-KJNodes  3f20054214  https://git.example.com/ComfyUI-KJNodes.git
                   it needs `numpy<2`
        installed  mine             -           /packs/mine
        Python package: gguf==0.19.0
        Note: a note
        Failed: the packages of the manifest are left out
        ");
    }

    #[test]
    fn the_last_start_says_what_loaded() {
        let report = |name: &str, state, error: Option<&str>, asked| PackReport {
            name: name.to_owned(),
            version: None,
            folder: format!("/data/{name}").into(),
            state,
            seconds: Some(0.41),
            classes: vec!["One".to_owned(), "Two".to_owned()],
            error: error.map(str::to_owned),
            asked,
        };
        let pack = |name: &str| InstalledPack {
            pack: format!("{name}@1.0.0").parse().unwrap(),
            folder: format!("/data/{name}").into(),
            failure: None,
            notes: Vec::new(),
            script_failed: false,
            may_pass: false,
        };
        let answer = Answer {
            packs: ["good", "bad", "later"]
                .map(|name| Row::new(pack(name), "installed"))
                .into(),
            ..Answer::default()
        };
        let answer = answer.with(&NodesReport {
            counted: true,
            packs: vec![
                report("good", PackState::Loaded, None, true),
                report("bad", PackState::Failed, Some("it raised an error"), true),
                report("former", PackState::Loaded, None, true),
                report("mine", PackState::Loaded, None, false),
            ],
            ..NodesReport::default()
        });
        let text = answer.table();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "loaded     good   1.0.0  2 classes, 0.4 s  Comfy Registry: good"
        );
        assert!(lines[1].starts_with("failed     bad"), "{text}");
        assert!(lines[2].contains("failed to load: it raised an error"), "{text}");
        assert!(lines[3].starts_with("installed  later"), "{text}");
        assert_eq!(lines[4], "loaded     mine   -      2 classes, 0.4 s  /data/mine");
        assert_eq!(lines.len(), 5);
    }
}
