//! Reads a Dockerfile and a .dockerignore as far as ours go: no quoting in COPY, `*` for a whole name or its beginning.

use std::fs;
use std::path::{Component, Path, PathBuf};

pub(crate) struct Dockerfile {
    stages: Vec<Stage>,
}

struct Stage {
    /// Empty, if it has none.
    name: String,
    base: String,
    /// Each with its arguments, as one line.
    instructions: Vec<(String, String)>,
}

/// A COPY instruction.
pub(crate) struct Copy {
    pub(crate) stage: String,
    pub(crate) from: Option<String>,
    pub(crate) sources: Vec<String>,
    pub(crate) target: String,
}

impl Dockerfile {
    pub(crate) fn read(repository: &Path) -> Self {
        let text = fs::read_to_string(repository.join("Dockerfile")).expect("a Dockerfile");
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .collect();
        let mut stages: Vec<Stage> = Vec::new();
        for line in lines.join("\n").replace("\\\n", " ").lines() {
            let Some((name, arguments)) = line.trim().split_once(' ') else {
                continue;
            };
            let arguments = arguments.split_whitespace().collect::<Vec<_>>().join(" ");
            if name == "FROM" {
                let (base, stage) = arguments.split_once(" AS ").unwrap_or((&arguments, ""));
                stages.push(Stage {
                    name: stage.to_owned(),
                    base: base.to_owned(),
                    instructions: Vec::new(),
                });
            } else {
                let stage = stages.last_mut().expect("FROM comes first");
                stage.instructions.push((name.to_owned(), arguments));
            }
        }
        Self { stages }
    }

    pub(crate) fn has_stage(&self, name: &str) -> bool {
        self.stages.iter().any(|stage| stage.name == name)
    }

    /// What a stage begins with; the last one has no name.
    pub(crate) fn base(&self, name: &str) -> &str {
        let stage = self.stages.iter().find(|stage| stage.name == name);
        stage.map_or_else(|| panic!("no stage `{name}`"), |stage| stage.base.as_str())
    }

    /// The arguments of each instruction of that name.
    pub(crate) fn of(&self, name: &str) -> Vec<&str> {
        let all = self.stages.iter().flat_map(|stage| &stage.instructions);
        all.filter(|(found, _)| found == name)
            .map(|(_, arguments)| arguments.as_str())
            .collect()
    }

    pub(crate) fn copies(&self) -> impl Iterator<Item = Copy> {
        self.stages.iter().flat_map(|stage| {
            let copies = stage.instructions.iter().filter(|(name, _)| name == "COPY");
            copies.map(|(_, arguments)| {
                let (flags, mut words): (Vec<&str>, Vec<&str>) =
                    arguments.split(' ').partition(|word| word.starts_with("--"));
                let target = words.pop().expect("a target").to_owned();
                Copy {
                    stage: stage.name.clone(),
                    from: flags
                        .iter()
                        .find_map(|flag| flag.strip_prefix("--from="))
                        .map(str::to_owned),
                    sources: words.into_iter().map(str::to_owned).collect(),
                    target,
                }
            })
        })
    }

    /// The variables that the image sets where it is built without arguments: those have no defaults.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let last = self.stages.last().expect("a stage");
        let set = last.instructions.iter().filter(|(name, _)| name == "ENV");
        set.flat_map(|(_, arguments)| shell_words::split(arguments).expect("words"))
            .map(|word| {
                let (name, value) = word.split_once('=').expect("NAME=VALUE");
                let value = if value.starts_with('$') { "" } else { value };
                (name.to_owned(), value.to_owned())
            })
            .collect()
    }

    /// The words of the health check's command.
    pub(crate) fn health_check(&self) -> Vec<String> {
        let checks = self.of("HEALTHCHECK");
        let (_, words) = checks[0].split_once("CMD ").expect("a command");
        serde_json::from_str(words).expect("JSON")
    }

    pub(crate) fn entry_point(&self) -> Vec<String> {
        serde_json::from_str(self.of("ENTRYPOINT")[0]).expect("JSON")
    }
}

impl Copy {
    /// The files of the build context that `source` names.
    pub(crate) fn matching<'a>(source: &str, context: &'a [PathBuf]) -> Vec<&'a PathBuf> {
        context.iter().filter(|file| begins(source, file)).collect()
    }

    /// Each copied file with its path below the stage's working folder.
    pub(crate) fn copied(&self, context: &[PathBuf]) -> Vec<(PathBuf, PathBuf)> {
        let target = Path::new(self.target.trim_start_matches("./"));
        let mut all = Vec::new();
        for source in &self.sources {
            for file in Self::matching(source, context) {
                // A folder's content is copied; a file comes under its own name.
                let inner = match file.strip_prefix(source) {
                    Ok(inner) if inner.components().next().is_some() => inner.to_owned(),
                    _ => PathBuf::from(file.file_name().expect("a name")),
                };
                all.push((file.clone(), target.join(inner)));
            }
        }
        all
    }
}

/// Whether `pattern` names `path` or a folder above it.
fn begins(pattern: &str, path: &Path) -> bool {
    let mut names = path.components();
    Path::new(pattern).components().all(|part| match (part, names.next()) {
        (Component::Normal(part), Some(Component::Normal(name))) => {
            let (part, name) = (part.to_str().expect("UTF-8"), name.to_str().expect("UTF-8"));
            match part.split_once('*') {
                Some((start, end)) => name.starts_with(start) && name[start.len()..].ends_with(end),
                None => part == name,
            }
        }
        _ => false,
    })
}

/// The files that travel to the builder: those of the repository that .dockerignore does not keep out.
pub(crate) fn context(repository: &Path) -> Vec<PathBuf> {
    let ignore = fs::read_to_string(repository.join(".dockerignore")).expect("a .dockerignore");
    let patterns: Vec<&str> = ignore
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    // The last pattern that fits decides.
    let kept = |path: &Path| {
        let fits = |pattern: &&&str| begins(pattern.trim_start_matches('!').trim_start_matches('/'), path);
        patterns
            .iter()
            .rev()
            .find(fits)
            .is_none_or(|pattern| pattern.starts_with('!'))
    };
    let may_hold = |folder: &Path| {
        let exceptions = patterns.iter().filter_map(|pattern| pattern.strip_prefix('!'));
        kept(folder)
            || exceptions
                .into_iter()
                .any(|exception| Path::new(exception).starts_with(folder))
    };
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(repository.join(&folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            let path = folder.join(entry.file_name());
            if entry.file_type().expect("a type").is_dir() {
                if may_hold(&path) {
                    folders.push(path);
                }
            } else if kept(&path) {
                files.push(path);
            }
        }
    }
    files
}
