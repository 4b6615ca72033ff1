use std::time::Duration;

use super::*;

fn copies(folder: &Path, limit: u64) -> LocalCopies {
    LocalCopies {
        folder: folder.join(FOLDER),
        limit,
    }
}

fn original(folder: &Path, name: &str, bytes: usize) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, vec![7; bytes]).unwrap();
    path
}

#[test]
fn a_copy_is_whole_and_goes_with_its_original() {
    let root = tempfile::tempdir().unwrap();
    let (stop, local) = (CancellationToken::new(), copies(root.path(), 1000));
    let from = original(root.path(), "a.safetensors", 400);
    let target = local.folder().join("loras/sub/a.safetensors");
    assert_eq!(local.copy(&from, &target, &stop).unwrap(), 400);
    assert_eq!(fs::read(&target).unwrap(), fs::read(&from).unwrap());
    local.tidy();
    assert!(target.is_file());
    fs::write(&from, [8; 400]).unwrap();
    File::open(&from)
        .unwrap()
        .set_modified(SystemTime::now() + Duration::from_secs(5))
        .unwrap();
    local.tidy();
    assert!(!target.exists() && !marker(&target).unwrap().exists());
}

#[test]
fn the_least_recently_used_make_room_and_too_large_ones_are_left() {
    let root = tempfile::tempdir().unwrap();
    let (stop, local) = (CancellationToken::new(), copies(root.path(), 1000));
    let copy = |name: &str, bytes: usize| {
        let from = original(root.path(), name, bytes);
        let target = local.folder().join("vae").join(name);
        (local.copy(&from, &target, &stop), target)
    };
    let (_, old) = copy("old", 400);
    let (_, older) = copy("older", 400);
    let long_ago = SystemTime::now() - Duration::from_hours(1);
    let marker = File::options().append(true).open(marker(&older).unwrap()).unwrap();
    marker.set_modified(long_ago).unwrap();
    touch(&old);
    let (new, _) = copy("new", 500);
    assert_eq!(new.unwrap(), 500);
    assert!(old.exists() && !older.exists());
    assert!(matches!(copy("huge", 1001).0, Err(NotCopied::TooLarge)));
}

#[test]
fn what_a_killed_worker_left_goes_and_a_worker_that_stops_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (stop, local) = (CancellationToken::new(), copies(root.path(), 1000));
    let folder = local.folder().join("loras");
    fs::create_dir_all(&folder).unwrap();
    let left = original(&folder, ".x.safetensors.0123.part", 10);
    // Of a worker that was killed between the two.
    fs::write(folder.join(".y.safetensors.copy"), "{}").unwrap();
    let lock = local.lock(File::lock).unwrap();
    local.tidy();
    assert!(left.exists(), "another worker is at it");
    drop(lock);
    local.tidy();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    stop.cancel();
    let from = original(root.path(), "z", 10);
    let stopped = local.copy(&from, &folder.join("z"), &stop);
    assert!(matches!(stopped, Err(NotCopied::Stopped)), "{stopped:?}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}
