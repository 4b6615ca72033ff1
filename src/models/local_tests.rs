use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Config;
use crate::models::volumes;

pub(super) const HOUR: Duration = STAYS;

/// A worker with a data folder and a volume.
pub(super) struct Machine {
    root: tempfile::TempDir,
    pub(super) local: LocalCopies,
}

impl Machine {
    pub(super) fn new(limit: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("volume/models")).unwrap();
        let folder = root.path().join("data").join(FOLDER);
        fs::create_dir_all(&folder).unwrap();
        Self {
            local: LocalCopies { folder, limit },
            root,
        }
    }

    /// A model, on the volume or elsewhere.
    pub(super) fn write(&self, path: &str, content: &[u8]) -> PathBuf {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub(super) fn places(&self) -> Places {
        let vars = [("DATA_DIR", "data"), ("NETWORK_VOLUMES", "volume")]
            .map(|(name, path)| (name.to_owned(), self.root.path().join(path).display().to_string()));
        let (config, own) = (
            Config::from_vars(vars).unwrap(),
            self.root.path().join("data/base/models"),
        );
        let mut places = Places::new(&config, Some(&own), &volumes::find(&config.paths.network_volumes, &own));
        places.look_first_into(self.local.folder());
        places
    }

    /// A copy of what is on the volume, as one that was made.
    pub(super) fn copy(&self, name: &str, bytes: usize) -> PathBuf {
        let original = self.write(&format!("volume/models/{name}"), &vec![7; bytes]);
        let target = self.local.folder().join(name);
        let copied = self.local.copy(&original, &target, &CancellationToken::new());
        assert_eq!(copied.unwrap(), bytes as u64);
        target
    }

    pub(super) fn files(&self) -> usize {
        let mut files = 0;
        walk(self.local.folder(), &mut |_, name| files += usize::from(name != LOCK));
        files
    }
}

/// Has a copy been used so long ago.
pub(super) fn age(copy: &Path, age: Duration) {
    let marker = File::options().append(true).open(marker(copy).unwrap()).unwrap();
    marker.set_modified(SystemTime::now() - age).unwrap();
}

#[test]
fn a_copy_goes_with_its_original() {
    let machine = Machine::new(1000);
    let target = machine.copy("loras/sub/a.safetensors", 400);
    machine.local.tidy(&machine.places());
    assert!(target.is_file());
    let original = machine.write("volume/models/loras/sub/a.safetensors", &[8; 400]);
    let later = SystemTime::now() + Duration::from_secs(5);
    File::open(&original).unwrap().set_modified(later).unwrap();
    machine.local.tidy(&machine.places());
    assert_eq!(machine.files(), 0);
    machine.copy("loras/a.safetensors", 400);
    fs::remove_file(machine.root.path().join("volume/models/loras/a.safetensors")).unwrap();
    machine.local.tidy(&machine.places());
    assert_eq!(machine.files(), 0);
}

#[test]
fn a_volume_that_is_not_there_costs_no_copies() {
    let machine = Machine::new(1000);
    let target = machine.copy("loras/a.safetensors", 400);
    let volume = machine.root.path().join("volume");
    fs::rename(&volume, machine.root.path().join("late")).unwrap();
    machine.local.tidy(&machine.places());
    assert!(target.is_file());
}

#[test]
fn a_copy_stands_for_no_other_file_than_comfyui_would_take() {
    let machine = Machine::new(1000);
    machine.copy("loras/a.safetensors", 400);
    // ComfyUI looks into its own folder first.
    let own = machine.write("data/base/models/loras/a.safetensors", &[9; 300]);
    assert_eq!(machine.places().originals("a.safetensors"), [("loras", own)]);
    machine.local.tidy(&machine.places());
    assert_eq!(machine.files(), 0);
}

#[test]
fn what_a_killed_worker_left_goes_unless_another_is_at_it() {
    let machine = Machine::new(1000);
    let whole = machine.copy("loras/a.safetensors", 40);
    let folder = "data/local-models/loras";
    for left in [".x.safetensors.0123.part", "no_marker.safetensors"] {
        machine.write(&format!("{folder}/{left}"), &[1; 10]);
    }
    machine.write(&format!("{folder}/.y.safetensors.copy"), b"{}");
    let lock = machine.local.lock().unwrap();
    machine.local.tidy(&machine.places());
    assert_eq!(machine.files(), 5);
    drop(lock);
    machine.local.tidy(&machine.places());
    assert_eq!(machine.files(), 2);
    assert!(whole.is_file());
}

#[test]
fn the_least_recently_used_make_room() {
    let machine = Machine::new(1000);
    let (newer, older) = (
        machine.copy("vae/a.safetensors", 400),
        machine.copy("vae/b.safetensors", 400),
    );
    age(&older, 3 * HOUR);
    age(&newer, 2 * HOUR);
    let new = machine.copy("vae/c.safetensors", 500);
    assert!(newer.exists() && new.exists() && !older.exists());
}

#[test]
fn nothing_goes_for_a_copy_that_does_not_fit_in_the_end() {
    let machine = Machine::new(1000);
    let (old, fresh) = (
        machine.copy("vae/a.safetensors", 400),
        machine.copy("vae/b.safetensors", 400),
    );
    age(&old, 2 * HOUR);
    assert!(matches!(machine.local.make_room(700), Err(NotCopied::NoRoom)));
    assert!(old.exists() && fresh.exists());
    machine.local.make_room(600).unwrap();
    assert!(!old.exists() && fresh.exists());
}
