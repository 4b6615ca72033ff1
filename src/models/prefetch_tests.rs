use super::*;

fn file(folder: &tempfile::TempDir, name: &str, pieces: u64) -> Item {
    let path = folder.path().join(name);
    let content = File::create(&path).unwrap();
    content.set_len(PIECE * pieces).unwrap();
    Item::of(name, path).unwrap()
}

fn reading(items: Vec<Item>, room: u64) -> Reading {
    Reading::new(items, room, CancellationToken::new())
}

#[test]
fn the_text_encoder_comes_first_and_the_vae_last() {
    let kinds = ["vae", "loras", "upscale_models", "diffusion_models", "text_encoders"];
    let mut order = kinds;
    order.sort_by_key(|kind| place_of(kind));
    assert_eq!(
        order,
        ["text_encoders", "diffusion_models", "loras", "vae", "upscale_models"]
    );
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
fn a_job_that_names_other_files_ends_it_and_one_of_ours_puts_them_first() {
    let folder = tempfile::tempdir().unwrap();
    let items = || vec![file(&folder, "a", 1), file(&folder, "b", 1), file(&folder, "c", 1)];
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let ours = reading(items(), u64::MAX);
    ours.a_job_names(&[]);
    let order: Vec<String> = ours.left.lock().items.iter().map(|item| item.name.clone()).collect();
    assert_eq!(
        order,
        ["a", "b", "c"],
        "a job without models has no wishes, and changes no order"
    );
    ours.a_job_names(&names(&["c"]));
    let first = ours.left.lock().items[0].name.clone();
    assert_eq!(first, "c");
    assert!(ours.run(|_| ()).is_whole);
    let other = reading(items(), u64::MAX);
    other.a_job_names(&names(&["a", "elsewhere"]));
    let read = other.run(|_| ());
    assert_eq!((read.bytes, read.is_whole), (0, false));
}

#[test]
fn the_disk_is_left_to_comfyui_while_it_reads_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let beside = Beside {
        root: folder.path().to_owned(),
        ..Beside::default()
    };
    let device = fs::metadata(folder.path()).unwrap().dev();
    // No process yet: it is about to read.
    let mut watch = Watch::new(&beside);
    assert_eq!(watch.reserved(), device);
    watch.read_at = Instant::now().checked_sub(2 * LEFT_TO_COMFYUI).unwrap();
    assert_eq!(watch.reserved(), 0, "it has been silent");
    // Whatever this process has read by now, it differs from nothing.
    beside.pid.store(std::process::id(), Ordering::Relaxed);
    if bytes_read(std::process::id()).is_some() {
        assert_eq!(watch.reserved(), device);
    }
    beside.is_ready.store(true, Ordering::Relaxed);
    assert_eq!(watch.reserved(), 0);
}

#[test]
fn a_summary_tells_bytes_seconds_and_pace() {
    let read = Read {
        bytes: 20_000_000_000,
        there: 1_200_000_000,
        is_whole: false,
    };
    assert_eq!(
        summary(read, Duration::from_secs(10)),
        "20.00 GB in 10.0 s, 2.00 GB/s; 1.20 GB were there; the rest is left"
    );
}
