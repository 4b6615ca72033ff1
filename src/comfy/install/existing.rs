//! A ComfyUI that its user installed, named by `COMFYUI_DIR`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Installation;
use super::error::InstallError;
use super::python::all_on_path;

/// Takes the user's own installation in `dir` as it is: nothing is run, nothing is changed.
///
/// The interpreter is `python` where given (`COMFYUI_PYTHON`), else that of the first virtual environment found of `.venv`
/// and `venv`, in `dir` and then beside it, else that of `virtual_env` (the variable `VIRTUAL_ENV`), else `python3` on
/// `PATH`.
pub fn existing(dir: &Path, python: Option<&Path>, virtual_env: Option<&Path>) -> Result<Installation, InstallError> {
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    existing_on(dir, python, virtual_env, &search_path)
}

fn existing_on(
    dir: &Path,
    python: Option<&Path>,
    virtual_env: Option<&Path>,
    search_path: &OsStr,
) -> Result<Installation, InstallError> {
    if !dir.join("main.py").is_file() {
        return Err(InstallError::NotComfyUi(dir.to_owned()));
    }
    // The child process gets it as its working directory, and our paths must hold there too.
    let root = std::path::absolute(dir).map_err(super::error::io("find", dir))?;
    let wrong = |python: &Path, reason: &str| InstallError::WrongPython {
        python: python.to_owned(),
        reason: reason.to_owned(),
    };
    let python = match python {
        Some(given) if given.is_file() => given.to_owned(),
        // A bare name, `python3.12`, is one on PATH.
        Some(given) if given.components().count() == 1 => {
            let found = given.to_str().map(|name| all_on_path(name, search_path));
            found
                .unwrap_or_default()
                .swap_remove_index(0)
                .ok_or_else(|| wrong(given, "there is no such program on PATH"))?
        }
        Some(given) => return Err(wrong(given, "there is no such file")),
        None => found_for(&root, virtual_env, search_path)?,
    };
    Ok(Installation {
        version: version(&root).unwrap_or_else(|| "unknown".to_owned()),
        python: std::path::absolute(&python).map_err(super::error::io("find", &python))?,
        root,
        commit: None,
        reference: None,
        lock: None,
    })
}

fn found_for(root: &Path, virtual_env: Option<&Path>, search_path: &OsStr) -> Result<PathBuf, InstallError> {
    let beside = root.parent().unwrap_or(root);
    let environments = [
        root.join(".venv"),
        root.join("venv"),
        beside.join(".venv"),
        beside.join("venv"),
    ];
    let in_environments = environments
        .iter()
        .map(PathBuf::as_path)
        .chain(virtual_env)
        .map(|environment| environment.join("bin/python"))
        .find(|python| python.is_file());
    in_environments
        .or_else(|| all_on_path("python3", search_path).swap_remove_index(0))
        .ok_or_else(|| {
            let root = root.display();
            InstallError::NoPython(format!("no virtual environment at {root}, and no python3 on PATH"))
        })
}

/// The version that the tree in `root` says it is.
pub(super) fn version(root: &Path) -> Option<String> {
    let text = std::fs::read_to_string(root.join("comfyui_version.py")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};

    #[test]
    fn a_folder_without_main_py_is_none() {
        let error = existing_on(Path::new("/nonexistent"), None, None, OsStr::new("")).err();
        assert!(matches!(&error, Some(InstallError::NotComfyUi(_))), "{error:?}");
    }

    #[test]
    fn the_nearest_environment_wins_and_the_version_is_read() -> anyhow::Result<()> {
        let temp = tempfile::tempdir()?;
        let root = temp.path().join("ComfyUI");
        create_dir_all(&root)?;
        write(root.join("main.py"), "")?;
        let python_in = |dir: &Path| -> anyhow::Result<PathBuf> {
            create_dir_all(dir)?;
            write(dir.join("python"), "")?;
            write(dir.join("python3"), "")?;
            Ok(dir.join("python"))
        };
        let find = |virtual_env: Option<&Path>, path: &Path| {
            existing_on(&root, None, virtual_env, path.as_os_str()).map(|found| found.python)
        };

        let nowhere = temp.path().join("nowhere");
        assert!(matches!(find(None, &nowhere).err(), Some(InstallError::NoPython(_))));
        let on_path = temp.path().join("path");
        python_in(&on_path)?;
        assert_eq!(find(None, &on_path)?, on_path.join("python3"));
        let active = temp.path().join("active");
        let in_active = python_in(&active.join("bin"))?;
        assert_eq!(find(Some(&active), &on_path)?, in_active);
        let beside = python_in(&temp.path().join(".venv/bin"))?;
        assert_eq!(find(Some(&active), &on_path)?, beside);
        let inside = python_in(&root.join("venv/bin"))?;
        assert_eq!(find(Some(&active), &on_path)?, inside);

        let given = existing_on(&root, Some(Path::new("python3")), None, on_path.as_os_str())?;
        assert_eq!(
            (given.python, given.version.as_str()),
            (on_path.join("python3"), "unknown")
        );
        let missing = existing_on(&root, Some(&nowhere), None, on_path.as_os_str()).err();
        assert!(matches!(missing, Some(InstallError::WrongPython { .. })));

        write(
            root.join("comfyui_version.py"),
            "# generated\n__version__ = \"0.30.0\"\n",
        )?;
        assert_eq!(version(&root).as_deref(), Some("0.30.0"));
        Ok(())
    }
}
