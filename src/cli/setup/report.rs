//! What `setup --check` found: a table for people, JSON for programs.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use crate::comfy::install::{Installation, OtherPackage};
use crate::comfy::nodes::report::{NodesReport, PackReport, PackState};
use crate::error::JobError;

/// Packages that are told first, since most depends on them.
const WEIGHTY: [&str; 5] = [
    "torch",
    "torchvision",
    "torchaudio",
    "numpy",
    "comfyui-frontend-package",
];
/// How many packages the table names.
const NAMED_PACKAGES: usize = 8;
/// The longest reason in the table, in bytes.
const LONGEST_REASON: usize = 400;

/// What `setup --check` found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// ComfyUI's version.
    pub(super) version: String,
    /// The commit that it was installed from, where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) commit: Option<String>,
    /// The version and where it comes from, for people.
    #[serde(skip)]
    pub(super) named: String,
    pub(super) root: PathBuf,
    pub(super) python: PathBuf,
    /// How long it took until it took prompts, in seconds.
    pub(super) start_s: f64,
    /// Python packages that are others than the pinned ones.
    pub(super) packages: Vec<OtherPackage>,
    /// Why these are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) packages_error: Option<String>,
    /// The packs of custom nodes that are in force.
    pub(super) custom_nodes: Vec<Pack>,
    pub(super) templates: Vec<Row>,
}

/// What became of one pack of custom nodes: the part that is told here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Pack {
    name: String,
    state: PackState,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The packs of a start.
pub(super) fn packs(report: &NodesReport) -> Vec<Pack> {
    let pack = |pack: &PackReport| Pack {
        name: pack.name.clone(),
        state: pack.state,
        error: pack.error.clone(),
    };
    report.packs.iter().map(pack).collect()
}

impl Pack {
    /// Whether its classes are missing.
    fn is_broken(&self) -> bool {
        matches!(self.state, PackState::Failed | PackState::NotInstalled)
    }

    /// `x: failed: No module named 'y'`
    fn in_words(&self) -> String {
        match &self.error {
            Some(error) => format!("{}: {}: {error}", self.name, self.state),
            None => format!("{}: {}", self.name, self.state),
        }
    }
}

/// What came of one template.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) template: String,
    pub(super) state: State,
    pub(super) seconds: f64,
    /// Why it did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Passed,
    Failed,
    /// The demo weights have none of its models.
    Skipped,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl Report {
    pub(super) fn new(installation: Installation, start_s: f64) -> Self {
        Self {
            named: installation.named(),
            version: installation.version,
            commit: installation.commit,
            root: installation.root,
            python: installation.python,
            start_s,
            packages: Vec::new(),
            packages_error: None,
            custom_nodes: Vec::new(),
            templates: Vec::new(),
        }
    }

    fn count(&self, state: State) -> usize {
        self.templates.iter().filter(|row| row.state == state).count()
    }

    /// Whether nothing failed, and something passed.
    pub(super) fn is_good(&self) -> bool {
        self.count(State::Failed) == 0
            && self.count(State::Passed) > 0
            && !self.custom_nodes.iter().any(Pack::is_broken)
    }

    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "ComfyUI {} in {}, run by {}; it was ready after {:.1} s\n{}\n",
            self.named,
            self.root.display(),
            self.python.display(),
            self.start_s,
            self.packages_in_words()
        );
        for pack in &self.custom_nodes {
            let _ = writeln!(text, "Custom nodes, {}", pack.in_words());
        }
        let width = self.templates.iter().map(|row| row.template.len()).max();
        let width = width.unwrap_or_default();
        for row in &self.templates {
            let (state, seconds) = (row.state.as_str(), row.seconds);
            let reason = row.reason.as_deref().unwrap_or_default();
            let line = format!("{state:7}  {:width$}  {seconds:5.1} s  {reason}", row.template);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text.push_str(&self.last_line());
        text.push('\n');
        text
    }

    fn packages_in_words(&self) -> String {
        if let Some(error) = &self.packages_error {
            return format!("Python packages: not known, as {error}");
        }
        if self.packages.is_empty() {
            return "Python packages: those that this release was tested with".to_owned();
        }
        let is_weighty = |other: &&OtherPackage| WEIGHTY.contains(&other.name.as_str());
        let (first, rest): (Vec<_>, Vec<_>) = self.packages.iter().partition(is_weighty);
        let words: Vec<String> = first.into_iter().chain(rest).map(in_words).collect();
        let named = words[..words.len().min(NAMED_PACKAGES)].join(", ");
        match words.len().saturating_sub(NAMED_PACKAGES) {
            0 => format!("Python packages that are others than this release was tested with: {named}"),
            more => {
                format!("Python packages that are others than this release was tested with: {named} and {more} more")
            }
        }
    }

    fn last_line(&self) -> String {
        let (all, failed, skipped) = (
            self.templates.len(),
            self.count(State::Failed),
            self.count(State::Skipped),
        );
        let mut line = if failed > 0 {
            format!("{failed} of {all} templates failed on ComfyUI {}", self.version)
        } else {
            let passed = all - skipped;
            format!("{passed} of {all} templates passed on ComfyUI {}", self.version)
        };
        let broken = self.custom_nodes.iter().filter(|pack| pack.is_broken()).count();
        if broken > 0 {
            let packs = self.custom_nodes.len();
            let _ = write!(line, "; {broken} of {packs} packs of custom nodes failed");
        }
        if skipped > 0 {
            let _ = write!(
                line,
                "; {skipped} could not be tried, as the demo weights have no models for them"
            );
        }
        line
    }
}

/// `torch 2.9.0 (tested: 2.8.0)`
fn in_words(other: &OtherPackage) -> String {
    match &other.installed {
        Some(installed) => format!("{} {installed} (tested: {})", other.name, other.pinned),
        None => format!("no {} (tested: {})", other.name, other.pinned),
    }
}

/// An error on one line: what is wrong, place by place where that is known.
pub(super) fn one_line(error: &JobError) -> String {
    let text = if error.problems.is_empty() {
        error.message.clone()
    } else {
        let problems: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
        problems.join("; ")
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    crate::echo::at_most(words.join(" "), LONGEST_REASON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorKind, Problem};

    fn report(rows: &[(&str, State, Option<&str>)]) -> Report {
        let installation = Installation {
            root: "/data/comfyui/x/ComfyUI".into(),
            python: "/data/comfyui/x/venv/bin/python".into(),
            version: "0.46.0".to_owned(),
            commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            reference: Some("v0.46.0".to_owned()),
            lock: None,
        };
        let other = |name: &str, installed: Option<&str>| OtherPackage {
            name: name.to_owned(),
            pinned: "1.0".to_owned(),
            installed: installed.map(str::to_owned),
        };
        let row = |(template, state, reason): &(&str, State, Option<&str>)| Row {
            template: (*template).to_owned(),
            state: *state,
            seconds: 2.34,
            reason: reason.map(str::to_owned),
        };
        let mut report = Report::new(installation, 8.24);
        report.packages = vec![other("aiohttp", None), other("torch", Some("2.0"))];
        report.templates = rows.iter().map(row).collect();
        report
    }

    #[test]
    fn the_table_says_what_passed_and_why_the_rest_did_not() {
        let report = report(&[
            ("qwen-image", State::Passed, None),
            (
                "qwen-image-edit-2511",
                State::Failed,
                Some("ComfyUI has no node class \"X\""),
            ),
            ("mine", State::Skipped, Some("no flux.safetensors")),
        ]);
        assert!(!report.is_good());
        insta::assert_snapshot!(report.table(), @r#"
        ComfyUI 0.46.0 (commit 0123456789abcdef0123456789abcdef01234567) in /data/comfyui/x/ComfyUI, run by /data/comfyui/x/venv/bin/python; it was ready after 8.2 s
        Python packages that are others than this release was tested with: torch 2.0 (tested: 1.0), no aiohttp (tested: 1.0)
        passed   qwen-image              2.3 s
        failed   qwen-image-edit-2511    2.3 s  ComfyUI has no node class "X"
        skipped  mine                    2.3 s  no flux.safetensors
        1 of 3 templates failed on ComfyUI 0.46.0; 1 could not be tried, as the demo weights have no models for them
        "#);
    }

    #[test]
    fn what_passes_is_good_and_nothing_at_all_is_not() {
        let good = report(&[("qwen-image", State::Passed, None), ("mine", State::Skipped, None)]);
        assert!(good.is_good());
        assert!(
            good.last_line()
                .starts_with("1 of 2 templates passed on ComfyUI 0.46.0;")
        );
        assert!(!report(&[]).is_good() && !report(&[("mine", State::Skipped, None)]).is_good());
    }

    #[test]
    fn a_pack_that_did_not_load_is_told_and_fails_the_trial() {
        let pack = |name: &str, state, error: Option<&str>| PackReport {
            name: name.to_owned(),
            version: None,
            folder: PathBuf::new(),
            state,
            seconds: None,
            classes: Vec::new(),
            error: error.map(str::to_owned),
            asked: true,
        };
        let start = NodesReport {
            packs: vec![
                pack("good", PackState::Loaded, None),
                pack("bad", PackState::Failed, Some("No module named 'x'")),
            ],
            ..NodesReport::default()
        };
        let mut report = report(&[("qwen-image", State::Passed, None)]);
        report.custom_nodes = packs(&start);
        assert!(!report.is_good());
        let table = report.table();
        assert!(table.contains("\nCustom nodes, good: loaded\n"), "{table}");
        assert!(
            table.contains("\nCustom nodes, bad: failed: No module named 'x'\n"),
            "{table}"
        );
        assert!(table.ends_with("; 1 of 2 packs of custom nodes failed\n"), "{table}");
    }

    #[test]
    fn an_error_is_told_on_one_line_by_what_is_wrong() {
        let error = JobError::new(ErrorKind::NodeFailed, "node 3 failed:\n  a\n\tb");
        assert_eq!(one_line(&error), "node 3 failed: a b");
        let problem = |message: &str| Problem {
            message: message.to_owned(),
            ..Problem::default()
        };
        let error = error.problems(vec![problem("one"), problem("two\nlines")]);
        assert_eq!(one_line(&error), "one; two lines");
    }
}
