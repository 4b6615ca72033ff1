//! Which Python packages an environment holds, and which of them are others than those that this release was tested with.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use tokio::process::Command;

use super::pins::Pins;

/// The longest that Python may take to name its packages. It reads a file for each.
const LONGEST: Duration = Duration::from_mins(1);

/// Prints the packages as JSON, name to version.
const LIST: &str = "import importlib.metadata as m, json; \
                    print(json.dumps({d.metadata['Name']: d.version for d in m.distributions() if d.metadata['Name']}))";

/// A package whose version is not the pinned one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherPackage {
    /// Its name, in small letters, with hyphens.
    pub name: String,
    /// The version of the pinned list.
    pub pinned: String,
    /// The version that is there; [`None`]: it is not there.
    pub installed: Option<String>,
}

/// The packages of the pinned list that the environment of `python` has in another version or not at all, by name.
/// Fails with a sentence where that Python cannot be asked.
pub async fn other_packages(python: &Path) -> Result<Vec<OtherPackage>, String> {
    let mut command = Command::new(python);
    command.args(["-I", "-c", LIST]).stdin(Stdio::null()).kill_on_drop(true);
    let done = tokio::time::timeout(LONGEST, command.output()).await;
    let output = done
        .map_err(|_| format!("{} did not name its packages", python.display()))?
        .map_err(|error| format!("{} cannot be run: {error}", python.display()))?;
    let installed =
        serde_json::from_slice(&output.stdout).map_err(|_| format!("{} cannot name its packages", python.display()))?;
    Ok(others(&Pins::default().dependencies, installed))
}

fn others(list: &str, installed: BTreeMap<String, String>) -> Vec<OtherPackage> {
    let installed: BTreeMap<String, String> = installed
        .into_iter()
        .map(|(name, version)| (plain(&name), version))
        .collect();
    let mut pinned: BTreeMap<String, (Vec<&str>, bool)> = BTreeMap::new();
    // One package may have several lines, for several versions of Python.
    for (line, (name, rest)) in list.lines().filter_map(|line| Some((line, line.split_once("==")?))) {
        if !line.starts_with([' ', '#']) {
            let version = rest.split([' ', ';', '\\']).next().unwrap_or_default();
            let (versions, is_everywhere) = pinned.entry(plain(name)).or_default();
            versions.push(version);
            *is_everywhere |= !rest.contains(';');
        }
    }
    let differing = pinned.into_iter().filter_map(|(name, (versions, is_everywhere))| {
        let is_expected = match installed.get(&name) {
            Some(there) => versions.iter().any(|version| is_same(version, there)),
            // Some are for other systems only.
            None => !is_everywhere,
        };
        (!is_expected).then(|| OtherPackage {
            pinned: versions.join(" or "),
            installed: installed.get(&name).cloned(),
            name,
        })
    });
    differing.collect()
}

/// Whether `there` is the version that was asked for. The usual build of torch, `2.8.0`, calls itself `2.8.0+cu128`.
fn is_same(pinned: &str, there: &str) -> bool {
    there == pinned || there.split_once("+cu").is_some_and(|(version, _)| version == pinned)
}

/// A name as indexes compare it (PEP 503), without extras.
fn plain(name: &str) -> String {
    let name = name.split('[').next().unwrap_or_default();
    let words = name.split(['-', '_', '.']).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_and_missing_packages_are_told_and_the_same_are_not() {
        let list = "\
torch==2.8.0 \\\n    --hash=sha256:aa\nnumpy==2.2.6 ; python_full_version < '3.11' \\\n    --hash=sha256:bb
numpy==2.4.6 ; python_full_version >= '3.11' \\\n    --hash=sha256:cc\nPyYAML==6.0 \\\n    --hash=sha256:dd
pillow==12.0 \\\n    --hash=sha256:ee\ncolorama==0.4 ; sys_platform == 'win32' \\\n    --hash=sha256:ff\n";
        let installed = |more: &[(&str, &str)]| {
            let all = [("torch", "2.8.0+cu128"), ("numpy", "2.4.6"), ("pyyaml", "6.0")];
            let all = all.iter().chain(more);
            all.map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        assert_eq!(others(list, installed(&[("Pillow", "12.0"), ("kornia", "1")])), []);
        let told = others(list, installed(&[("torch", "2.9.0"), ("numpy", "1.26.4")]));
        let other = |name: &str, pinned: &str, installed: Option<&str>| OtherPackage {
            name: name.to_owned(),
            pinned: pinned.to_owned(),
            installed: installed.map(str::to_owned),
        };
        assert_eq!(
            told,
            [
                other("numpy", "2.2.6 or 2.4.6", Some("1.26.4")),
                other("pillow", "12.0", None),
                other("torch", "2.8.0", Some("2.9.0"))
            ]
        );
        assert!(!is_same("2.8.0", "2.8.0+cpu") && !is_same("2.8.0", "2.8.1+cu128"));
    }

    #[tokio::test]
    async fn a_python_that_cannot_be_asked_is_named() {
        let error = other_packages(Path::new("/nowhere/python")).await.unwrap_err();
        assert!(error.contains("/nowhere/python"), "{error}");
    }
}
