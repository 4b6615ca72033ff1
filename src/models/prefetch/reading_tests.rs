use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::*;

fn file(folder: &tempfile::TempDir, name: &str, pieces: u64) -> Item {
    let path = folder.path().join(name);
    let content = File::create(&path).unwrap();
    content.set_len(PIECE * pieces).unwrap();
    Item::of(name, path).unwrap()
}

fn files(folder: &tempfile::TempDir, names: &[&str]) -> Vec<Item> {
    names.iter().map(|name| file(folder, name, 1)).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn reading(items: Vec<Item>, room: u64) -> Reading {
    Reading::new(items, room, CancellationToken::new())
}

/// What is left to be opened.
fn left(reading: &Reading) -> Vec<String> {
    reading.left.lock().items.iter().map(|item| item.name.clone()).collect()
}

#[test]
fn each_file_is_read_whole_or_is_there_already() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (file(&folder, "a", 3), file(&folder, "b", 2));
    let missing = Item {
        path: folder.path().join("gone"),
        ..one.clone()
    };
    let read = reading(vec![one, missing, two], u64::MAX).run(|_| ());
    assert_eq!(read.bytes + read.there, 5 * PIECE);
    assert!(read.is_whole);
    // Now they are: where the file system can say so, nothing is read again.
    let content = File::open(folder.path().join("a")).unwrap();
    std::io::copy(&mut &content, &mut std::io::sink()).unwrap();
    let again = reading(vec![file(&folder, "b", 2)], u64::MAX).run(|_| ());
    assert_eq!(again.bytes + again.there, 2 * PIECE);
}

#[test]
fn no_more_is_read_than_there_is_room_for() {
    let folder = tempfile::tempdir().unwrap();
    let read = reading(vec![file(&folder, "a", 3), file(&folder, "b", 3)], 4 * PIECE).run(|_| ());
    assert!(!read.is_whole || read.there > 0, "{read:?}");
    assert!(read.bytes <= 4 * PIECE, "{read:?}");
}

#[test]
fn what_a_job_names_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let reading = reading(files(&folder, &["a", "b", "c"]), u64::MAX);
    // A job without models has no wishes.
    reading.a_job_names(&[]);
    assert_eq!(left(&reading), ["a", "b", "c"]);
    reading.a_job_names(&names(&["c"]));
    assert_eq!(left(&reading), ["c", "a", "b"]);
    assert!(reading.run(|_| ()).is_whole);
}

#[test]
fn beside_a_job_with_other_files_only_what_jobs_name_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let reading = reading(files(&folder, &["a", "b", "c"]), u64::MAX);
    reading.a_job_names(&names(&["b", "a", "own"]));
    assert_eq!(left(&reading), ["a", "b"]);
    // The next one is prepared while the first still loads.
    reading.a_job_names(&names(&["elsewhere"]));
    assert_eq!(left(&reading), ["a", "b"]);
    let read = reading.run(|_| ());
    assert_eq!((read.bytes + read.there, read.is_whole), (2 * PIECE, false));
    let other = self::reading(files(&folder, &["a"]), u64::MAX);
    other.a_job_names(&names(&["elsewhere"]));
    let read = other.run(|_| ());
    assert_eq!((read.bytes, read.is_whole), (0, false));
}

#[test]
fn the_disk_that_is_comfyuis_is_passed_over_and_the_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut items = files(&folder, &["a", "b"]);
    let device = fs::metadata(folder.path()).unwrap().dev();
    items[1].device = device + 1;
    let reading = reading(items, u64::MAX);
    let mut left = reading.left.lock();
    let Next::Open(item) = left.next(device) else { panic!() };
    assert_eq!(item.name, "b");
    assert!(matches!(left.next(device), Next::Wait), "one at a time is opened");
    drop(left);
    reading.open(item);
    let mut left = reading.left.lock();
    // In memory already, or read now; then the rest waits.
    while matches!(left.next(device), Next::Read(_)) {}
    assert!(matches!(left.next(device), Next::Wait));
    assert!(matches!(left.next(0), Next::Open(_)));
}

#[test]
fn threads_that_give_way_end_with_the_one_that_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let reading = reading(files(&folder, &["a", "b"]), u64::MAX);
    // Of another disk.
    let read = reading.run(|reading| reading.reserved.store(1, Ordering::Relaxed));
    assert!(read.is_whole && reading.comfyui_reads());
}
