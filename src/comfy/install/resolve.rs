//! Which Python packages a tree gets that was not pinned to the byte: its own `requirements.txt`, resolved by uv.
//!
//! Our lock takes part twice. torch, torchvision, torchaudio and numpy are held at its versions, unless the tree needs
//! others; and of everything else its version is preferred where it fits, so that most of what is installed is what was
//! tested. Both are let go for what the tree demands. The result is a requirement list with hashes, which is kept beside
//! the installation: whoever installs the same commit again gets the same.

use std::path::{Path, PathBuf};

use url::Url;

use super::child::Runner;
use super::error::{InstallError, io};
use super::tools::{Tools, TorchIndex};
use crate::telemetry::report::Unit;

/// The packages that come from `TORCH_INDEX_URL`.
const TORCH: [&str; 3] = ["torch", "torchvision", "torchaudio"];
/// What some builds of torch need besides, each from the same index and from no other.
const TORCH_COMPANIONS: [&str; 5] = [
    "pytorch-triton",
    "pytorch-triton-rocm",
    "pytorch-triton-xpu",
    "triton-rocm",
    "triton-xpu",
];
/// What older versions import and do not ask for: it came with transformers 4, and does not with 5.
const UNASKED: &str = "requests\n";
/// The packages that are held at the versions of our lock, in the order in which they are let go.
const HELD: [&[&str]; 3] = [&["torch", "torchvision", "torchaudio", "numpy"], &TORCH, &["numpy"]];

/// Writes the list of all packages for the tree `source` to `target`, with hashes, for the interpreter that `tools`
/// install for. `name` is the tree's, for people.
pub(super) async fn resolve(
    runner: &Runner<'_>,
    tools: &Tools,
    torch_index: Option<&Url>,
    name: &str,
    source: &Path,
    target: &Path,
) -> Result<(), InstallError> {
    let mut meter = runner
        .reporter
        .begin("versions of the Python packages", None, Unit::Items);
    let job = Job::new(runner, tools, torch_index, source)?;
    let mut companions = Vec::new();
    let mut attempts = HELD.iter().copied().chain([[].as_slice()]);
    let mut held = attempts.next().unwrap_or_default();
    let list = loop {
        let output = match job.run(held, &companions).await {
            Ok(()) => break job.read()?,
            Err(InstallError::NoSolution { output }) => output,
            Err(error) => return Err(error),
        };
        // A build of torch that needs a package which only its own index has: the index is told of that one too.
        let is_missing = |name: &&str| torch_index.is_some() && names(&output, name) && !companions.contains(name);
        if let Some(companion) = TORCH_COMPANIONS.into_iter().find(|name| is_missing(name)) {
            companions.push(companion);
            continue;
        }
        tracing::debug!("with {held:?} as they were tested: {output}");
        held = attempts.next().ok_or_else(|| InstallError::Unresolvable {
            name: name.to_owned(),
            output: shortened(&output),
        })?;
    };
    for note in differences(&runner.pins.dependencies, &list, name) {
        runner.reporter.note(&note);
    }
    super::layout::write(target, list.as_bytes())?;
    meter.detail("done");
    meter.finish(&format!("{} packages", pinned(&list).count()));
    Ok(())
}

/// One resolution, tried with more or less held.
struct Job<'a> {
    runner: &'a Runner<'a>,
    tools: &'a Tools,
    torch_index: Option<&'a Url>,
    requirements: PathBuf,
    /// A folder of its own: uv takes a `pyproject.toml` where it runs for its settings.
    folder: PathBuf,
    output: PathBuf,
}

impl<'a> Job<'a> {
    fn new(
        runner: &'a Runner<'a>,
        tools: &'a Tools,
        torch_index: Option<&'a Url>,
        source: &Path,
    ) -> Result<Self, InstallError> {
        let folder = runner.dir.join("resolve");
        std::fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        Ok(Self {
            runner,
            tools,
            torch_index,
            requirements: source.join("requirements.txt"),
            output: folder.join("packages.txt"),
            folder,
        })
    }

    async fn run(&self, held: &[&str], companions: &[&str]) -> Result<(), InstallError> {
        let write = |name: &str, content: &str| {
            let path = self.folder.join(name);
            std::fs::write(&path, content).map_err(io("write", &path))?;
            Ok::<_, InstallError>(path)
        };
        let ours = &self.runner.pins.dependencies;
        let constraints: Vec<&str> = pinned(ours)
            .filter(|pin| held.contains(&pin.name))
            .map(|pin| pin.line)
            .collect();
        let constraints = write("constraints.txt", &constraints.join("\n"))?;
        // What uv finds in its output file are the versions that it prefers.
        write("packages.txt", ours)?;
        let Some(mut command) = self.tools.uv(self.runner) else {
            return Err(InstallError::NoUv);
        };
        command.current_dir(&self.folder).args(["pip", "compile"]);
        if let Some(url) = self.torch_index {
            let index = TorchIndex::new(url);
            command.envs(index.credentials());
            command.arg(write("pyproject.toml", &project(index.address(), companions))?);
        }
        command
            .arg(&self.requirements)
            .arg(write("unasked.txt", UNASKED)?)
            .arg("--constraints")
            .arg(constraints)
            .arg("--python")
            .arg(self.tools.base())
            .args(["--generate-hashes", "--no-header", "--no-annotate", "--quiet"])
            .arg("--output-file")
            .arg(&self.output);
        self.runner
            .run("resolve ComfyUI's Python packages", command, |_| {})
            .await?;
        Ok(())
    }

    fn read(&self) -> Result<String, InstallError> {
        std::fs::read_to_string(&self.output).map_err(io("read", &self.output))
    }
}

/// A project that has torch's packages from the index at `address`, and nothing else from there.
fn project(address: &str, companions: &[&str]) -> String {
    use std::fmt::Write as _;

    let names: Vec<&str> = TORCH.iter().chain(companions).copied().collect();
    // JSON's strings are TOML's too.
    let address = serde_json::Value::from(address);
    let mut text = format!(
        "[project]\nname = \"comfyui-environment\"\nversion = \"0\"\ndependencies = {}\n\n[[tool.uv.index]]\nname = \"{}\"\nurl = {address}\nexplicit = true\n\n[tool.uv.sources]\n",
        serde_json::Value::from(names.clone()),
        TorchIndex::NAME,
    );
    for name in names {
        let _ = writeln!(text, "{name} = {{ index = \"{}\" }}", TorchIndex::NAME);
    }
    text
}

/// A line of a requirement list that pins a package.
pub(super) struct Pin<'a> {
    /// `numpy`.
    pub(super) name: &'a str,
    /// `2.2.6`.
    version: &'a str,
    /// With its marker, and without hashes: `numpy==2.2.6 ; python_full_version < '3.11'`.
    line: &'a str,
}

/// What a requirement list pins.
pub(super) fn pinned(list: &str) -> impl Iterator<Item = Pin<'_>> {
    list.lines().filter_map(|line| {
        let line = line.trim_end_matches(['\\', ' ']);
        let (name, rest) = line.split_once("==")?;
        let is_name = !name.is_empty() && !name.starts_with([' ', '#', '-']);
        let version = rest.split([' ', ';']).next().unwrap_or_default();
        is_name.then_some(Pin { name, version, line })
    })
}

/// Splits a requirement list with hashes: what comes from torch's index, and everything else.
pub(super) fn split(list: &str) -> (String, String) {
    let (mut torch, mut rest) = (String::new(), String::new());
    let mut is_torch = false;
    for line in list.lines() {
        if let Some(pin) = pinned(line).next() {
            is_torch = TORCH.contains(&pin.name) || TORCH_COMPANIONS.contains(&pin.name);
        }
        let part = if is_torch { &mut torch } else { &mut rest };
        part.push_str(line);
        part.push('\n');
    }
    (torch, rest)
}

/// What is not as it was tested, among the packages that we would rather hold.
fn differences(ours: &str, list: &str, name: &str) -> Vec<String> {
    let release = |version: &str| version.split('+').next().unwrap_or_default().to_owned();
    let held = pinned(list).filter(|pin| HELD[0].contains(&pin.name));
    held.filter_map(|pin| {
        let tested: Vec<&str> = pinned(ours)
            .filter(|ours| ours.name == pin.name)
            .map(|ours| ours.version)
            .collect();
        let is_as_tested = tested.contains(&release(pin.version).as_str());
        (!is_as_tested).then(|| {
            format!(
                "ComfyUI {name} gets {} {}; this worker was tested with {}",
                pin.name,
                pin.version,
                tested.join(", ")
            )
        })
    })
    .collect()
}

/// Whether a text has `name` as a word of its own.
fn names(text: &str, name: &str) -> bool {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .any(|word| word == name)
}

/// The most bytes of uv's explanation that an error shows.
const LONGEST_EXPLANATION: usize = 2_000;

/// uv's explanation, with its line breaks within sentences taken out.
fn shortened(output: &str) -> String {
    let words: Vec<&str> = output
        .lines()
        .map(|line| line.trim_start_matches(['×', '╰', '─', '▶', '│', ' ']))
        .filter(|line| !line.is_empty())
        .collect();
    crate::echo::at_most(words.join("\n"), LONGEST_EXPLANATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "numpy==1.26.4 \\\n    --hash=sha256:aa \\\n    --hash=sha256:ab\npytorch-triton-rocm==3.4 \\\n    --hash=sha256:bb\ntorch==2.8.0+cpu \\\n    --hash=sha256:cc\ntqdm==4 \\\n    --hash=sha256:dd\n";

    #[test]
    fn a_list_is_split_by_where_it_comes_from() {
        let (torch, rest) = split(LIST);
        assert_eq!(
            torch,
            "pytorch-triton-rocm==3.4 \\\n    --hash=sha256:bb\ntorch==2.8.0+cpu \\\n    --hash=sha256:cc\n"
        );
        assert!(
            rest.starts_with("numpy==1.26.4 \\\n    --hash=sha256:aa \\\n    --hash=sha256:ab\ntqdm==4"),
            "{rest}"
        );
    }

    #[test]
    fn what_differs_from_the_tested_versions_is_told_and_another_build_of_the_same_is_not() {
        let ours = "numpy==2.2.6 ; python_full_version < '3.11' \\\nnumpy==2.4.6 ; python_full_version >= '3.11'\ntorch==2.8.0\n";
        assert_eq!(
            differences(ours, LIST, "0.46.0"),
            ["ComfyUI 0.46.0 gets numpy 1.26.4; this worker was tested with 2.2.6, 2.4.6"]
        );
        let lines: Vec<&str> = pinned(ours).map(|pin| pin.line).collect();
        assert_eq!(
            lines,
            [
                "numpy==2.2.6 ; python_full_version < '3.11'",
                "numpy==2.4.6 ; python_full_version >= '3.11'",
                "torch==2.8.0"
            ]
        );
    }

    #[test]
    fn every_package_of_torchs_index_is_named_and_the_address_is_quoted() {
        let project = project("https://a.example/\"x", &["triton-rocm"]);
        let read: toml::Table = toml::from_str(&project).unwrap();
        let sources = read["tool"]["uv"]["sources"].as_table().unwrap();
        assert_eq!(sources.len(), 4);
        assert_eq!(
            read["tool"]["uv"]["index"][0]["url"].as_str(),
            Some("https://a.example/\"x")
        );
        assert_eq!(read["tool"]["uv"]["index"][0]["explicit"].as_bool(), Some(true));
    }

    #[test]
    fn a_name_is_a_word() {
        assert!(names("torch depends on triton-rocm==3.9, we", "triton-rocm"));
        assert!(!names("depends on pytorch-triton-rocm==3.9", "triton-rocm"));
    }
}
