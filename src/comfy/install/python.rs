//! Finds a Python that can run ComfyUI.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use indexmap::IndexSet;

use super::error::InstallError;
use super::pins::PYTHON_MINORS;

/// The names looked for, in this order.
const NAMES: [&str; 6] = [
    "python3.13",
    "python3.12",
    "python3.11",
    "python3.10",
    "python3",
    "python",
];

/// How long an interpreter may take to say its version; the first start from a cold disk takes a second or two.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// Prints name, version, whether `ensurepip` is there, and the interpreter itself, one a line; it runs on Python 2 too.
const PROBE: &str = "import sys
try:
    import ensurepip, venv
    pip = 1
except ImportError:
    pip = 0
name = getattr(getattr(sys, 'implementation', None), 'name', 'cpython')
print('qwen-image-worker\\n%s\\n%d.%d.%d\\n%d\\n%s' % ((name,) + tuple(sys.version_info[:3]) + (pip, sys.executable)))";

/// An interpreter that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::comfy) struct Python {
    /// The interpreter, by its own word: not the shim that was asked.
    pub(in crate::comfy) path: PathBuf,
    /// Major, minor, patch.
    pub(in crate::comfy) version: (u32, u32, u32),
    /// Whether `python -m venv` can put pip into what it makes.
    pub(in crate::comfy) has_ensurepip: bool,
    /// Whether it is the usual implementation: torch has no builds for others.
    cpython: bool,
}

impl Python {
    /// `3.11.2`.
    pub(in crate::comfy) fn version_text(&self) -> String {
        let (major, minor, patch) = self.version;
        format!("{major}.{minor}.{patch}")
    }

    /// What speaks against this interpreter, if anything does.
    fn objection(&self) -> Option<String> {
        let version = self.version_text();
        let (major, minor, _) = self.version;
        if !self.cpython {
            Some(format!("version {version} is not CPython"))
        } else if major < 3 || (major == 3 && minor < *PYTHON_MINORS.start()) {
            Some(format!("version {version} is too old"))
        } else if major > 3 || minor > *PYTHON_MINORS.end() {
            Some(format!("version {version} is too new for torch 2.8.0"))
        } else {
            None
        }
    }
}

/// The interpreter to use: `given`, else the first good one on `search_path`. Where `uv` is there to make virtual
/// environments, one without `ensurepip` will do.
pub(in crate::comfy) async fn choose(
    given: Option<&Path>,
    search_path: &OsStr,
    uv_is_there: bool,
) -> Result<Python, InstallError> {
    if let Some(given) = given {
        let wrong = |reason| InstallError::WrongPython {
            python: given.to_owned(),
            reason,
        };
        return with_venv(probe(given).await.map_err(wrong)?, uv_is_there);
    }
    let mut rejected = Vec::new();
    let mut without_venv = None;
    for candidate in NAMES.iter().flat_map(|name| all_on_path(name, search_path)) {
        match probe(&candidate).await {
            Ok(python) if python.has_ensurepip || uv_is_there => return Ok(python),
            Ok(python) => without_venv = without_venv.or(Some(python)),
            Err(reason) => rejected.push(format!("{}: {reason}", candidate.display())),
        }
    }
    match without_venv {
        Some(python) => with_venv(python, uv_is_there),
        None if rejected.is_empty() => Err(InstallError::NoPython("there is none on PATH".to_owned())),
        None => Err(InstallError::NoPython(rejected.join("; "))),
    }
}

fn with_venv(python: Python, uv_is_there: bool) -> Result<Python, InstallError> {
    if python.has_ensurepip || uv_is_there {
        return Ok(python);
    }
    Err(InstallError::NoVenv {
        version: python.version_text(),
        python: python.path,
    })
}

/// Each file `name` in the folders of `search_path`, in their order.
pub(in crate::comfy) fn all_on_path(name: &str, search_path: &OsStr) -> IndexSet<PathBuf> {
    let paths = std::env::split_paths(search_path).map(|folder| folder.join(name));
    paths.filter(|path| path.is_absolute() && path.is_file()).collect()
}

/// Asks the interpreter what it is. The error says why it could not answer, or what speaks against it.
async fn probe(path: &Path) -> Result<Python, String> {
    let output = tokio::process::Command::new(path)
        .args(["-c", PROBE])
        .env_remove("PYTHONHOME")
        .env_remove("PYTHONPATH")
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(PROBE_TIMEOUT, output).await {
        Err(_) => return Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
        Ok(Err(error)) => return Err(format!("does not start ({error})")),
        Ok(Ok(output)) => output,
    };
    let Some(mut python) = parse_probe(&String::from_utf8_lossy(&output.stdout)) else {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().map(str::trim).find(|line| !line.is_empty());
        return Err(match said {
            Some(line) => format!("does not run ({line})"),
            None => format!("does not run ({})", output.status),
        });
    };
    // Embedded interpreters do not know themselves.
    if python.path.as_os_str().is_empty() {
        path.clone_into(&mut python.path);
    }
    python.objection().map_or(Ok(python), Err)
}

/// Reads what [`PROBE`] prints; a site hook may have printed something before it.
fn parse_probe(output: &str) -> Option<Python> {
    let mut lines = output.lines().skip_while(|line| *line != "qwen-image-worker").skip(1);
    let cpython = lines.next()? == "cpython";
    let version = parse_version(lines.next()?)?;
    let has_ensurepip = lines.next()? == "1";
    let path = PathBuf::from(lines.next().unwrap_or_default());
    Some(Python {
        path,
        version,
        has_ensurepip,
        cpython,
    })
}

/// `3.11.2` as numbers.
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let parts = text.split('.').map(|part| part.parse().ok());
    let [major, minor, patch] = *parts.collect::<Option<Vec<_>>>()? else {
        return None;
    };
    Some((major, minor, patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(version: &str) -> Option<Python> {
        parse_probe(&format!("qwen-image-worker\ncpython\n{version}\n1\n/usr/bin/python3\n"))
    }

    #[test]
    fn versions_are_numbers() {
        assert_eq!(parse_version("3.9.18"), Some((3, 9, 18)));
        assert_eq!(parse_version("3.13.0"), Some((3, 13, 0)));
        assert_eq!(parse_version("3.13"), None);
        assert_eq!(parse_version("3.13.0rc1"), None);
    }

    #[test]
    fn three_nine_is_older_than_three_ten() {
        let objection = |version| python(version).and_then(|python| python.objection());
        assert_eq!(objection("3.9.18").as_deref(), Some("version 3.9.18 is too old"));
        assert_eq!(objection("2.7.18").as_deref(), Some("version 2.7.18 is too old"));
        assert_eq!(objection("3.10.0"), None);
        assert_eq!(objection("3.13.9"), None);
        assert!(objection("3.14.0").is_some_and(|reason| reason.contains("too new")));
    }

    #[test]
    fn a_probe_is_read_past_the_noise_of_a_site_hook() {
        let read = parse_probe("hello from sitecustomize\nqwen-image-worker\npypy\n3.11.2\n0\n/opt/pypy\n");
        assert_eq!(
            read,
            Some(Python {
                path: "/opt/pypy".into(),
                version: (3, 11, 2),
                has_ensurepip: false,
                cpython: false,
            })
        );
        assert_eq!(parse_probe("Python 3.11.2"), None);
    }
}
