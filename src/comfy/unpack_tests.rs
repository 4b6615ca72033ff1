use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

const FILE: tar::EntryType = tar::EntryType::Regular;
const FOLDER: tar::EntryType = tar::EntryType::Directory;
const LINK: tar::EntryType = tar::EntryType::Symlink;

/// An entry: name, what it is, mode, and content or target.
type Entry<'a> = (&'a str, tar::EntryType, u32, &'a str);

/// A gzipped tar file of entries with any path, also those that the tar crate refuses to write.
fn tar_gz(folder: &Path, entries: &[Entry]) -> PathBuf {
    let path = folder.join("a.tar.gz");
    let file = File::create(&path).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    for (name, kind, mode, text) in entries {
        let content = if kind.is_file() { text.as_bytes() } else { b"" };
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if !kind.is_file() {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_cksum();
        gzip.write_all(header.as_bytes()).unwrap();
        let mut blocks = content.to_vec();
        blocks.resize(content.len().next_multiple_of(512), 0);
        gzip.write_all(&blocks).unwrap();
    }
    gzip.write_all(&[0; 1024]).unwrap();
    gzip.finish().unwrap();
    path
}

/// A zip file of the same entries.
fn zip(folder: &Path, entries: &[Entry]) -> PathBuf {
    let path = folder.join("a.zip");
    let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
    for (name, kind, mode, text) in entries {
        let options = zip::write::SimpleFileOptions::default().unix_permissions(*mode);
        match *kind {
            FOLDER => zip.add_directory(*name, options).unwrap(),
            LINK => zip.add_symlink(*name, *text, options).unwrap(),
            _ => {
                zip.start_file(*name, options).unwrap();
                zip.write_all(text.as_bytes()).unwrap();
            }
        }
    }
    zip.finish().unwrap();
    path
}

/// Unpacks the entries as both forms of archives.
fn both(entries: &[Entry], inside: &str, look: impl Fn(Result<&Path, UnpackError>)) {
    for kind in [Archive::TarGz, Archive::Zip] {
        let temp = tempfile::tempdir().unwrap();
        let archive = match kind {
            Archive::TarGz => tar_gz(temp.path(), entries),
            Archive::Zip => zip(temp.path(), entries),
        };
        let target = temp.path().join("x/out");
        let unpacked = unpack(&archive, kind, Path::new(inside), &target);
        for escaped in ["escaped", "x/escaped"] {
            assert!(!temp.path().join(escaped).exists(), "{entries:?}");
        }
        look(unpacked.map(|()| target.as_path()));
    }
}

fn refused(entries: &[Entry], name: &str, reason: &str) {
    both(entries, "p", |unpacked| {
        let error = unpacked.expect_err(name);
        let text = error.to_string();
        assert!(matches!(error, UnpackError::Entry { .. }), "{text}");
        assert!(text.contains("/a."), "the archive is named: {text}");
        assert!(text.contains(name) && text.contains(reason), "{text}");
    });
}

#[test]
fn what_is_inside_is_unpacked_with_its_executable_bit_and_links() {
    let entries = [
        ("p/setup.py", FILE, 0o644, "text"),
        ("p/tree/", FOLDER, 0o755, ""),
        ("p/tree/main.py", FILE, 0o644, "main"),
        ("p/tree/a/run.sh", FILE, 0o4755, "run"),
        ("p/tree/a/link", LINK, 0o777, "../main.py"),
        ("p/tree/b", LINK, 0o777, "a"),
        ("p/tree/none", LINK, 0o777, "a/not/there"),
    ];
    both(&entries, "p/tree", |unpacked| {
        let target = unpacked.unwrap();
        assert_eq!(fs::read_to_string(target.join("main.py")).unwrap(), "main");
        assert_eq!(fs::read_to_string(target.join("b/link")).unwrap(), "main");
        let mode = |name: &str| target.join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode("a/run.sh") & 0o7100, 0o100, "executable, and nothing more");
        assert_eq!(mode("main.py") & 0o7111, 0);
        assert!(!target.join("setup.py").exists());
    });
}

#[test]
fn paths_that_lead_out_are_refused_by_name() {
    for name in ["p/../../escaped", "../escaped", "/tmp/escaped"] {
        let entries = [("p/main.py", FILE, 0o644, "x"), (name, FILE, 0o644, "x")];
        refused(&entries, name, "leads out of it");
    }
}

#[test]
fn links_that_lead_out_are_refused_by_name() {
    for target in [
        "/etc/passwd",
        "..",
        "../escaped",
        "d/../../escaped",
        "d/out",
        "up/../../x",
    ] {
        let entries = [
            ("p/d/main.py", FILE, 0o644, "x"),
            ("p/d/out", LINK, 0o777, "../../escaped"),
            ("p/up", LINK, 0o777, "d"),
            ("p/a-link", LINK, 0o777, target),
        ];
        refused(&entries, "a-link", "is a link that leads out of it");
    }
    // Through a link the parent is another: `up/..` is `d`, not the top.
    let through = [
        ("p/d/e/main.py", FILE, 0o644, "main"),
        ("p/up", LINK, 0o777, "d/e"),
        ("p/d/ok", LINK, 0o777, "../up/../e/main.py"),
    ];
    both(&through, "p", |unpacked| {
        assert_eq!(fs::read_to_string(unpacked.unwrap().join("d/ok")).unwrap(), "main");
    });
    let circle = [
        ("p/a", LINK, 0o777, "b"),
        ("p/b", LINK, 0o777, "a"),
        ("p/c", FILE, 0o644, ""),
    ];
    refused(&circle, "\"a\"", "leads in a circle");
}

#[test]
fn nothing_is_written_through_a_link_or_over_a_file() {
    for entries in [
        [
            ("p/d", LINK, 0o777, "e"),
            ("p/d/escaped", FILE, 0o644, "x"),
            ("p/e/f", FILE, 0o644, "x"),
        ],
        [
            ("p/d", FILE, 0o644, "x"),
            ("p/d/e", FILE, 0o644, "x"),
            ("p/e", FILE, 0o644, "x"),
        ],
    ] {
        both(&entries, "p", |unpacked| {
            let error = unpacked.unwrap_err();
            assert!(
                matches!(error, UnpackError::Entry { .. } | UnpackError::Io { .. }),
                "{error}"
            );
        });
    }
    let temp = tempfile::tempdir().unwrap();
    let archive = tar_gz(temp.path(), &[("a", LINK, 0o777, "b"), ("a", FILE, 0o644, "2")]);
    let error = unpack(&archive, Archive::TarGz, Path::new(""), &temp.path().join("out")).unwrap_err();
    assert!(error.to_string().contains(r#"its entry "a" is there twice"#), "{error}");
}

#[test]
fn hard_links_and_devices_are_refused_by_name() {
    for (kind, reason) in [
        (tar::EntryType::Link, "is a hard link"),
        (tar::EntryType::Char, "is neither file"),
        (tar::EntryType::Block, "is neither file"),
        (tar::EntryType::Fifo, "is neither file"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let archive = tar_gz(
            temp.path(),
            &[("main.py", FILE, 0o644, ""), ("it", kind, 0o644, "main.py")],
        );
        let error = unpack(&archive, Archive::TarGz, Path::new(""), &temp.path().join("out")).unwrap_err();
        assert!(
            error.to_string().contains(&format!("its entry \"it\" {reason}")),
            "{error}"
        );
    }
}

#[test]
fn an_archive_that_grows_too_large_is_refused() {
    let entries = [
        ("a", FILE, 0o644, "12345"),
        ("b", FILE, 0o644, "12345"),
        ("c", FILE, 0o644, "1"),
    ];
    for kind in [Archive::TarGz, Archive::Zip] {
        for (most, bytes, reason) in [
            (3, 10, "its entry \"c\" is where it grows beyond 10 bytes"),
            (2, 99, "more than 2 entries"),
        ] {
            let temp = tempfile::tempdir().unwrap();
            let archive = match kind {
                Archive::TarGz => tar_gz(temp.path(), &entries),
                Archive::Zip => zip(temp.path(), &entries),
            };
            let unpacking = Unpacking {
                archive: &archive,
                inside: Path::new(""),
                target: &temp.path().join("out"),
                limits: Limits { entries: most, bytes },
                entries: 0,
                bytes: 0,
                links: Links::default(),
            };
            let error = unpacking.run(kind).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}

#[test]
fn a_zip_file_of_windows_is_read() {
    let temp = tempfile::tempdir().unwrap();
    let archive = zip(
        temp.path(),
        &[("pack\\a\\b.py", FILE, 0o644, "b"), ("pack\\c\\", FILE, 0o644, "")],
    );
    let target = temp.path().join("out");
    unpack(&archive, Archive::Zip, Path::new("pack"), &target).unwrap();
    assert_eq!(fs::read_to_string(target.join("a/b.py")).unwrap(), "b");
    assert!(target.join("c").is_dir());
}

#[test]
fn what_is_no_archive_or_torn_or_has_nothing_there_is_refused() {
    let entries = [("p/main.py", FILE, 0o644, "x"), ("p/b.py", FILE, 0o644, "x")];
    both(&entries, "q", |unpacked| {
        let error = unpacked.unwrap_err().to_string();
        assert!(error.contains("holds nothing under \"q\""), "{error}");
    });
    for kind in [Archive::TarGz, Archive::Zip] {
        let temp = tempfile::tempdir().unwrap();
        let archive = match kind {
            Archive::TarGz => tar_gz(temp.path(), &entries),
            Archive::Zip => zip(temp.path(), &entries),
        };
        let bytes = fs::read(&archive).unwrap();
        for torn in [&bytes[..bytes.len() / 2], b"<!DOCTYPE html>", b""] {
            fs::write(&archive, torn).unwrap();
            let error = unpack(&archive, kind, Path::new("p"), &temp.path().join("out")).unwrap_err();
            assert!(
                matches!(error, UnpackError::Archive { .. } | UnpackError::Entry { .. }),
                "{error}"
            );
            let _ = fs::remove_dir_all(temp.path().join("out"));
        }
    }
}
