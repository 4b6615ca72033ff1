//! Models that were fetched for jobs, and the limit on how much disk they take (`MODEL_CACHE_GB`).
//!
//! Such a file has a marker beside it, `.NAME.on-demand`, whose time of change is when a job used the model last. A
//! marker needs no index that two workers could write at once, and a file without one is never removed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::Mutex;

/// The ending of a marker.
const MARKER: &str = ".on-demand";

/// How deep below the models folder markers are looked for: the kind's folder, and folders in it.
const DEPTH: u32 = 4;

/// The marker of a model file.
fn marker(model: &Path) -> Option<PathBuf> {
    let name = model.file_name()?.to_str()?;
    Some(model.with_file_name(format!(".{name}{MARKER}")))
}

/// Says that the file was fetched for a job.
pub(super) fn mark(model: &Path) {
    let Some(marker) = marker(model) else { return };
    if let Err(error) = File::create(&marker) {
        tracing::warn!(%error, "the model {} cannot be marked; MODEL_CACHE_GB does not count it", model.display());
    }
}

/// Says that a job uses the file now. A file without a marker stays without.
fn touch(model: &Path) {
    let Some(marker) = marker(model) else { return };
    let touched = File::options()
        .append(true)
        .open(marker)
        .and_then(|file| file.set_modified(SystemTime::now()));
    match touched {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::debug!(%error, "the use of the model {} cannot be noted", model.display()),
    }
}

/// Removes a model file and its marker.
pub(super) fn remove(model: &Path) -> io::Result<()> {
    fs::remove_file(model)?;
    // A marker without a file is passed over.
    marker(model).map_or(Ok(()), fs::remove_file).or(Ok(()))
}

/// A model that was fetched for a job.
struct Marked {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

fn marked(folder: &Path, depth: u32, found: &mut Vec<Marked>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if let Some(model) = name.strip_prefix('.').and_then(|name| name.strip_suffix(MARKER)) {
            let model = path.with_file_name(model);
            let (Ok(facts), Ok(used)) = (
                fs::symlink_metadata(&model),
                entry.metadata().and_then(|facts| facts.modified()),
            ) else {
                continue;
            };
            found.push(Marked {
                bytes: facts.len(),
                path: model,
                used,
            });
        } else if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            marked(&path, depth - 1, found);
        }
    }
}

/// Removes models that were fetched for jobs, the least recently used first, until `more` bytes fit under `limit`.
/// Those in use stay. Gives what was removed. Blocking.
pub(super) fn make_room(models: &Path, limit: u64, more: u64, in_use: &InUse) -> Vec<PathBuf> {
    let mut files = Vec::new();
    marked(models, DEPTH, &mut files);
    files.sort_by_key(|file| file.used);
    let mut sum: u64 = files.iter().map(|file| file.bytes).sum::<u64>().saturating_add(more);
    let mut removed = Vec::new();
    for file in files {
        if sum <= limit {
            break;
        }
        if in_use.holds(&file.path) {
            continue;
        }
        match remove(&file.path) {
            Ok(()) => {
                sum = sum.saturating_sub(file.bytes);
                removed.push(file.path);
            }
            Err(error) => tracing::warn!(%error, "the model {} cannot be removed", file.path.display()),
        }
    }
    removed
}

/// The models with these names that were fetched for jobs; notes that they are used now. Blocking.
pub(super) fn named(models: &Path, names: &[String]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    marked(models, DEPTH, &mut files);
    // A name is the path under the folder of its kind.
    let is_named = |path: &Path| {
        let inner = path
            .strip_prefix(models)
            .ok()
            .map(|inner| inner.iter().skip(1).collect::<PathBuf>());
        inner.is_some_and(|inner| names.iter().any(|name| inner == Path::new(name)))
    };
    let files = files.into_iter().map(|file| file.path);
    let used: Vec<PathBuf> = files.filter(|path| is_named(path)).collect();
    for path in &used {
        touch(path);
    }
    used
}

/// The models that jobs use at the moment.
#[derive(Debug, Clone, Default)]
pub(super) struct InUse(Arc<Mutex<HashMap<PathBuf, Weak<()>>>>);

/// Models that stay where they are until this is dropped.
#[derive(Debug, Default)]
pub struct Held {
    _files: Vec<Arc<()>>,
}

impl InUse {
    fn holds(&self, path: &Path) -> bool {
        self.0.lock().get(path).is_some_and(|held| held.strong_count() > 0)
    }

    /// Holds these files until the answer is dropped.
    pub(super) fn hold(&self, paths: Vec<PathBuf>) -> Held {
        let mut in_use = self.0.lock();
        in_use.retain(|_, held| held.strong_count() > 0);
        let held = paths.into_iter().map(|path| {
            let known = in_use.entry(path).or_default();
            known.upgrade().unwrap_or_else(|| {
                let held = Arc::new(());
                *known = Arc::downgrade(&held);
                held
            })
        });
        Held { _files: held.collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A model of 100 bytes that was fetched for a job and used so many seconds ago.
    fn fetched(folder: &Path, name: &str, ago: u64) -> PathBuf {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, [0; 100]).unwrap();
        mark(&path);
        let used = SystemTime::now() - Duration::from_secs(ago);
        let marker = File::options().append(true).open(marker(&path).unwrap()).unwrap();
        marker.set_modified(used).unwrap();
        path
    }

    #[test]
    fn the_least_recently_used_go_first_and_only_as_many_as_needed() {
        let models = tempfile::tempdir().unwrap();
        let old = fetched(models.path(), "loras/old.pt", 300);
        let older = fetched(models.path(), "loras/sub/older.pt", 400);
        let new = fetched(models.path(), "vae/new.pt", 10);
        let own = models.path().join("vae/own.pt");
        fs::write(&own, [0; 1000]).unwrap();
        touch(&older);
        touch(&own);
        assert_eq!(
            make_room(models.path(), 300, 100, &InUse::default()),
            std::slice::from_ref(&old)
        );
        assert!(!marker(&old).unwrap().exists());
        assert!(older.exists() && new.exists() && own.exists());
        assert_eq!(
            make_room(models.path(), 300, 100, &InUse::default()),
            [] as [PathBuf; 0]
        );
        assert_eq!(make_room(models.path(), 0, 0, &InUse::default()), [new, older]);
        assert!(own.exists(), "what was not fetched for a job stays");
    }

    #[test]
    fn a_use_is_noted_by_name() {
        let models = tempfile::tempdir().unwrap();
        let used = fetched(models.path(), "loras/qwen/a.pt", 300);
        let other = fetched(models.path(), "loras/a.pt", 200);
        let name = "qwen/a.pt".to_owned();
        assert_eq!(
            named(models.path(), &[name, "none.pt".to_owned()]),
            std::slice::from_ref(&used)
        );
        assert_eq!(make_room(models.path(), 100, 0, &InUse::default()), [other]);
        assert!(used.exists());
    }

    #[test]
    fn what_a_job_uses_stays() {
        let models = tempfile::tempdir().unwrap();
        let used = fetched(models.path(), "loras/used.pt", 300);
        let in_use = InUse::default();
        let (held, again) = (in_use.hold(vec![used.clone()]), in_use.hold(vec![used.clone()]));
        drop(held);
        assert_eq!(make_room(models.path(), 0, 0, &in_use), [] as [PathBuf; 0]);
        drop(again);
        assert_eq!(make_room(models.path(), 0, 0, &in_use), [used]);
    }
}
