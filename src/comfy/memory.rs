//! The memory limit of the container that the worker runs in, and whether the kernel has killed for it.
//!
//! The kernel keeps both in control groups: version 2 (`memory.max`, cgroup-v2.rst) or version 1
//! (`memory.limit_in_bytes`, cgroup-v1/memory.rst). A process belongs to one group, whose limit and those of all groups
//! above it hold; the smallest counts. `/proc/self/cgroup` names the group, `/proc/self/mountinfo` the place where the
//! groups can be seen, which in a container shows only a part of them.

use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

/// The limit that holds for this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The most that may be used, in bytes; less than the machine has.
    pub bytes: u64,
    /// The groups that have a limit below the machine's memory, our own first.
    groups: Vec<Group>,
}

/// A group with a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    version: Version,
    folder: PathBuf,
    bytes: u64,
}

/// Of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    fn limit_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.limit_in_bytes",
            Self::V2 => "memory.max",
        }
    }

    fn usage_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.usage_in_bytes",
            Self::V2 => "memory.current",
        }
    }

    /// The parts of `memory.stat` that are a cache of files: the kernel drops them before it kills. What version 1 calls
    /// so without `total_` is of the group alone.
    fn cache(self) -> [&'static str; 2] {
        match self {
            Self::V1 => ["total_inactive_file", "total_active_file"],
            Self::V2 => ["inactive_file", "active_file"],
        }
    }

    /// Where the processes of a group that the kernel killed for want of memory are counted.
    fn kills_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.oom_control",
            Self::V2 => "memory.events",
        }
    }
}

impl MemoryLimit {
    /// The limit of this process; [`None`] where it may use all that the machine has, or nobody can tell. Takes less than a
    /// millisecond.
    pub fn of_this_process() -> Option<Self> {
        Self::under(Path::new("/"))
    }

    /// The same, where the file system of the kernel's files is at `root`.
    fn under(root: &Path) -> Option<Self> {
        let machine = meminfo(root, "MemTotal")?;
        let groups: Vec<Group> = own_groups(root)
            .into_iter()
            .flat_map(|(version, folders)| {
                folders.into_iter().enumerate().filter_map(move |(above, folder)| {
                    let own = number(&folder.join(version.limit_file()));
                    // Version 1 also knows of limits of groups above that cannot be seen from here.
                    let inherited = (version == Version::V1 && above == 0)
                        .then(|| field(&folder.join("memory.stat"), "hierarchical_memory_limit"))
                        .flatten();
                    let bytes = own.into_iter().chain(inherited).min()?;
                    (bytes < machine).then_some(Group { version, folder, bytes })
                })
            })
            .collect();
        let bytes = groups.iter().map(|group| group.bytes).min()?;
        Some(Self { bytes, groups })
    }

    /// One of groups of version 2, with their limits in bytes.
    #[cfg(test)]
    pub(super) fn of_groups(groups: Vec<(PathBuf, u64)>) -> Self {
        let groups: Vec<Group> = groups
            .into_iter()
            .map(|(folder, bytes)| Group {
                version: Version::V2,
                folder,
                bytes,
            })
            .collect();
        Self {
            bytes: groups.iter().map(|group| group.bytes).min().unwrap_or_default(),
            groups,
        }
    }

    /// What may still be used before the limit is reached, in bytes. Blocks for a moment.
    pub fn available(&self) -> u64 {
        let left = self.groups.iter().map(|group| {
            let usage = number(&group.folder.join(group.version.usage_file())).unwrap_or_default();
            let stat = group.folder.join("memory.stat");
            let cache = group.version.cache().map(|name| field(&stat, name).unwrap_or_default());
            group.bytes.saturating_sub(usage.saturating_sub(cache.iter().sum()))
        });
        left.min().unwrap_or(self.bytes)
    }

    /// What the start hook gets.
    pub(super) fn for_python(&self) -> Vec<Value> {
        let groups = self.groups.iter().map(|group| {
            json!({
                "limit": group.bytes,
                "usage": group.folder.join(group.version.usage_file()),
                "stat": group.folder.join("memory.stat"),
                "cache": group.version.cache(),
            })
        });
        groups.collect()
    }
}

impl fmt::Display for MemoryLimit {
    /// `6.0 GiB of this container (cgroup v1)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.groups.first().map(|group| group.version) {
            Some(Version::V1) => "v1",
            _ => "v2",
        };
        write!(f, "{} of this container (cgroup {version})", Gib(self.bytes))
    }
}

/// Bytes as `6.0 GiB`, in which limits are given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gib(pub(crate) u64);

impl fmt::Display for Gib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} GiB", self.0 as f64 / 1_073_741_824.0)
    }
}

/// The whole memory that this process may use, in bytes: the machine's, or the container's.
pub(crate) fn total() -> Option<u64> {
    let machine = meminfo(Path::new("/"), "MemTotal")?;
    Some(MemoryLimit::of_this_process().map_or(machine, |limit| limit.bytes.min(machine)))
}

/// The memory that is free for this process, in bytes: what the kernel can give without swapping, and the limit allows.
pub(crate) fn available() -> Option<u64> {
    let machine = meminfo(Path::new("/"), "MemAvailable")?;
    Some(MemoryLimit::of_this_process().map_or(machine, |limit| limit.available().min(machine)))
}

/// How many processes of this process's group the kernel has killed for want of memory, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kills {
    root: PathBuf,
    count: Option<u64>,
}

impl Kills {
    /// As many as until now.
    pub(super) fn now() -> Self {
        Self::under(Path::new("/"))
    }

    fn under(root: &Path) -> Self {
        let own = own_groups(root).into_iter().filter_map(|(version, folders)| {
            let own = folders.first()?;
            // Whether it counts those of groups below depends on the version; ComfyUI is in our own.
            field(&own.join(version.kills_file()), "oom_kill")
        });
        Self {
            root: root.to_owned(),
            count: own.reduce(|one, other| one + other),
        }
    }

    /// Whether there are more since. Blocks for a moment.
    pub(super) fn have_risen(&self) -> bool {
        Self::under(&self.root).count > self.count && self.count.is_some()
    }
}

/// The folders of the group of this process that has to do with memory, and of those above it as far as they can be
/// seen, for each version of control groups that is mounted.
fn own_groups(root: &Path) -> Vec<(Version, Vec<PathBuf>)> {
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
    let (memberships, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::read).collect();
    let mut found = Vec::new();
    for line in memberships.lines() {
        // `4:memory:/docker/ab`, `0::/user.slice`
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let version = if controllers.split(',').any(|name| name == "memory") {
            Version::V1
        } else if number == "0" && controllers.is_empty() {
            Version::V2
        } else {
            continue;
        };
        let of_version = mounts.iter().filter(|mount| mount.version == version);
        let visible: Vec<&Mount> = of_version.filter(|mount| mount.point_under(root).is_dir()).collect();
        let within = visible.iter().find_map(|mount| {
            let folder = mount.folder_of(Path::new(path), root)?;
            Some((mount.point_under(root), folder))
        });
        // A container may see its own group as the topmost, under another name than the kernel tells.
        let at_top = || {
            visible
                .first()
                .map(|mount| (mount.point_under(root), mount.point_under(root)))
        };
        if let Some((top, own)) = within.or_else(at_top) {
            let folders = own.ancestors().take_while(|folder| folder.starts_with(&top));
            found.push((version, folders.map(Path::to_owned).collect()));
        }
    }
    found
}

/// A place where groups can be seen.
#[derive(Debug)]
struct Mount {
    version: Version,
    /// The group that is the topmost here.
    group: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// `35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory` (proc(5)).
    fn read(line: &str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let (name, _source, options) = (kind.next()?, kind.next()?, kind.next()?);
        let version = match name {
            "cgroup2" => Version::V2,
            "cgroup" if options.split(',').any(|option| option == "memory") => Version::V1,
            _ => return None,
        };
        let mut place = place.split(' ').skip(3);
        Some(Self {
            version,
            group: unescaped(place.next()?).into(),
            point: unescaped(place.next()?).into(),
        })
    }

    fn point_under(&self, root: &Path) -> PathBuf {
        root.join(self.point.strip_prefix("/").unwrap_or(&self.point))
    }

    /// The folder of the group `path`, if it is one of those that can be seen here.
    fn folder_of(&self, path: &Path, root: &Path) -> Option<PathBuf> {
        let inner = path.strip_prefix(&self.group).ok()?;
        // `/../..` is a group above the topmost that a namespace shows.
        let is_plain = inner.components().all(|part| matches!(part, Component::Normal(_)));
        let folder = self.point_under(root).join(inner);
        // Without an end of `/`, which an empty rest would leave.
        let folder: PathBuf = folder.components().collect();
        (is_plain && folder.is_dir()).then_some(folder)
    }
}

/// Spaces and the like are written as `\040` there.
fn unescaped(text: &str) -> String {
    let named = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    named
        .iter()
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

/// A figure of `/proc/meminfo` (proc(5)), in bytes.
fn meminfo(root: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// A file that holds a number, and not `max`.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A number behind a name in a file of such lines.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
