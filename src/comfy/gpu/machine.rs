//! The rest of the machine: memory and disk, as runpod-python looks at them (`rp_system_fitness.py`, 1.12.0). There a
//! worker with too little does not start; here it is warned of, since most graphs need less.

use std::path::Path;

use crate::config::FitnessConfig;

/// What is scarce on this machine, one sentence each; `folder` is on the disk that is written to. Reads two files: call it
/// where that may block.
pub fn machine_warnings(limits: &FitnessConfig, folder: &Path) -> Vec<String> {
    if limits.skip_system {
        return Vec::new();
    }
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| memory_warning(&text, limits.min_memory_gib));
    let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let disk = nix::sys::statvfs::statvfs(existing).ok().and_then(|stat| {
        let percent = stat.blocks_available() as f64 * 100.0 / stat.blocks() as f64;
        disk_warning(existing, percent, limits.min_disk_percent)
    });
    memory.into_iter().chain(disk).collect()
}

/// Reads `/proc/meminfo` (proc(5)), which counts in KiB.
fn memory_warning(meminfo: &str, least: f64) -> Option<String> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    let gib = kib as f64 / 1_048_576.0;
    (gib < least).then(|| format!("{gib:.1} GiB of memory are free, less than {least} GiB (RUNPOD_MIN_MEMORY_GB)"))
}

fn disk_warning(folder: &Path, percent: f64, least: f64) -> Option<String> {
    // A file system without blocks of its own gives no number.
    (percent < least).then(|| {
        format!(
            "{percent:.1} % of the disk of {} are free, less than {least} % (RUNPOD_MIN_DISK_PERCENT)",
            folder.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scarce_memory_is_a_warning() {
        let meminfo = "MemTotal:       16384000 kB\nMemFree:          204800 kB\nMemAvailable:    2097152 kB\n";
        let warning = memory_warning(meminfo, 4.0);
        assert!(warning.is_some_and(|text| text.starts_with("2.0 GiB")));
        assert_eq!(memory_warning(meminfo, 2.0), None);
        for unknown in ["", "MemAvailable:", "MemAvailable: many kB"] {
            assert_eq!(memory_warning(unknown, 4.0), None);
        }
    }

    #[test]
    fn a_full_disk_is_a_warning() {
        let warning = disk_warning(Path::new("/data"), 9.94, 10.0);
        assert!(warning.is_some_and(|text| text.starts_with("9.9 % of the disk of /data")));
        assert_eq!(disk_warning(Path::new("/"), 10.0, 10.0), None);
        assert_eq!(disk_warning(Path::new("/"), f64::NAN, 10.0), None);
    }
}
