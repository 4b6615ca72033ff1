//! Limits in trees of files that look like the kernel's.

use super::*;

const GIB: u64 = 1 << 30;

/// A file system with 24 GiB of memory and these files.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let meminfo = ("proc/meminfo", "MemTotal:       25165824 kB\nMemFree:  1 kB\n");
    for (name, text) in files.iter().chain([&meminfo]) {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn limit(files: &[(&str, &str)]) -> Option<u64> {
    MemoryLimit::under(tree(files).path()).map(|limit| limit.bytes)
}

const V2: (&str, &str) = (
    "proc/self/mountinfo",
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
);
const V1: (&str, &str) = (
    "proc/self/mountinfo",
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
     32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
     35 31 0:32 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n\
     41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
);
const UNLIMITED: &str = "9223372036854771712\n";

#[test]
fn the_smallest_limit_on_the_way_up_counts() {
    let own = ("proc/self/cgroup", "0::/a/b\n");
    let a = ("sys/fs/cgroup/a/memory.max", "6442450944\n");
    let b = |text| ("sys/fs/cgroup/a/b/memory.max", text);
    assert_eq!(limit(&[V2, own, a, b("max\n")]), Some(6 * GIB));
    assert_eq!(limit(&[V2, own, a, b("8589934592\n")]), Some(6 * GIB));
    assert_eq!(limit(&[V2, own, a, b("1073741824\n")]), Some(GIB));
    let beside = ("sys/fs/cgroup/a/c/memory.max", "1024\n");
    assert_eq!(limit(&[V2, own, a, b("max\n"), beside]), Some(6 * GIB));
    // No more than the machine has: no limit.
    assert_eq!(limit(&[V2, own, b("25769803776\n")]), None);
    assert_eq!(limit(&[V2, own]), None);
}

#[test]
fn version_1_says_a_huge_number_for_none_and_knows_what_is_above() {
    let own = ("proc/self/cgroup", "5:cpu:/x\n4:memory:/a\n0::/\n");
    let file = |text| ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", text);
    let stat = |text| ("sys/fs/cgroup/memory/a/memory.stat", text);
    assert_eq!(limit(&[V1, own, file(UNLIMITED)]), None);
    assert_eq!(limit(&[V1, own, file("6442450944\n")]), Some(6 * GIB));
    let above = stat("cache 1\nhierarchical_memory_limit 2147483648\n");
    assert_eq!(limit(&[V1, own, file(UNLIMITED), above]), Some(2 * GIB));
    // Both versions at once: the unified tree may have a limit too.
    let unified = ("sys/fs/cgroup/unified/memory.max", "1073741824\n");
    assert_eq!(limit(&[V1, own, file("6442450944\n"), unified]), Some(GIB));
}

#[test]
fn a_container_sees_its_own_group_as_the_topmost() {
    // Its own namespace: the path is `/`.
    let file = ("sys/fs/cgroup/memory.max", "6442450944\n");
    assert_eq!(limit(&[V2, ("proc/self/cgroup", "0::/\n"), file]), Some(6 * GIB));
    // No namespace, or another one than that of the mount: the path names what cannot be seen.
    for path in ["/docker/ab", "/../..", "/../cd"] {
        let line = format!("0::{path}\n");
        assert_eq!(limit(&[V2, ("proc/self/cgroup", &line), file]), Some(6 * GIB), "{path}");
    }
    // The mount shows only a part, and says which.
    let mounted = (
        "proc/self/mountinfo",
        "35 31 0:32 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
    );
    let within = ("proc/self/cgroup", "4:memory:/docker/ab/c\n");
    let top = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "6442450944\n");
    let own = ("sys/fs/cgroup/memory/c/memory.limit_in_bytes", UNLIMITED);
    assert_eq!(limit(&[mounted, within, top, own]), Some(6 * GIB));
}

#[test]
fn without_control_groups_there_is_no_limit() {
    assert_eq!(limit(&[]), None);
    assert_eq!(limit(&[V2]), None);
    assert_eq!(limit(&[("proc/self/cgroup", "rubbish\n0::\n4:memory\n"), V1]), None);
    assert_eq!(MemoryLimit::under(Path::new("/nowhere")), None);
}

#[test]
fn a_place_with_spaces_is_found() {
    let mount = (
        "proc/self/mountinfo",
        "30 23 0:26 / /my\\040groups rw - cgroup2 none rw\n",
    );
    let file = ("my groups/a/memory.max", "1073741824\n");
    assert_eq!(limit(&[mount, ("proc/self/cgroup", "0::/a\n"), file]), Some(GIB));
}

#[test]
fn what_is_left_does_not_count_the_cache_of_files() {
    let root = tree(&[
        V2,
        ("proc/self/cgroup", "0::/a/b\n"),
        ("sys/fs/cgroup/a/memory.max", "6442450944\n"),
        ("sys/fs/cgroup/a/memory.current", "5368709120\n"),
        (
            "sys/fs/cgroup/a/memory.stat",
            "anon 1\nactive_file 2147483648\ninactive_file 1073741824\n",
        ),
        ("sys/fs/cgroup/a/b/memory.max", "5368709120\n"),
        ("sys/fs/cgroup/a/b/memory.current", "4294967296\n"),
    ]);
    let limit = MemoryLimit::under(root.path()).unwrap();
    // The own group has 1 GiB left, the one above 4 GiB.
    assert_eq!((limit.bytes, limit.available()), (5 * GIB, GIB));
    assert_eq!(limit.to_string(), "5.0 GiB of this container (cgroup v2)");
    assert_eq!(limit.for_python().len(), 2);
}

#[test]
fn kills_are_counted_from_a_moment_on() {
    for (own, mounts, file) in [
        (("proc/self/cgroup", "0::/a\n"), V2, "sys/fs/cgroup/a/memory.events"),
        (
            ("proc/self/cgroup", "4:memory:/a\n"),
            V1,
            "sys/fs/cgroup/memory/a/memory.oom_control",
        ),
    ] {
        let root = tree(&[own, mounts, (file, "oom 3\noom_kill 2\n")]);
        let before = Kills::under(root.path());
        assert!(!before.have_risen());
        fs::write(root.path().join(file), "oom 4\noom_kill 3\noom_group_kill 9\n").unwrap();
        assert!(before.have_risen());
    }
    // Nothing is said where nothing is counted.
    let root = tree(&[]);
    assert!(!Kills::under(root.path()).have_risen());
}

#[test]
fn this_machine_has_memory() {
    let (total, available) = (total().unwrap(), available().unwrap());
    assert!(available > 0 && available <= total, "{available} of {total}");
}

#[test]
fn figures_of_meminfo_are_in_kib_and_may_be_missing() {
    let root = tree(&[]);
    assert_eq!(meminfo(root.path(), "MemTotal"), Some(24 * GIB));
    assert_eq!(meminfo(root.path(), "MemFree"), Some(1024));
    for unknown in ["", "MemAvailable:", "MemAvailable: many kB"] {
        fs::write(root.path().join("proc/meminfo"), unknown).unwrap();
        assert_eq!(meminfo(root.path(), "MemAvailable"), None, "{unknown}");
    }
}
