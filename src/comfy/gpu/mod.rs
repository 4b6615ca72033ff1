//! The NVIDIA GPU: whether there is one, what its driver says of it, and whether that is enough; and what
//! else is scarce on the machine.
//!
//! [`nvidia_present`] looks at files only: asking the driver takes up to a second, and ComfyUI is to be started in
//! milliseconds. [`facts()`] asks `nvidia-smi`, and [`fitness()`] judges what it said.

mod choice;
mod facts;
mod fitness;

pub use choice::{ChoiceError, ChosenGpu, choose};
pub use facts::{Gpu, GpuError, GpuFacts, compute_capability, facts};
pub use fitness::{TorchBuild, Unfit, fitness, torch_build};

use std::path::Path;

use crate::comfy::memory;
use crate::config::FitnessConfig;
use crate::disk;

/// Whether this machine lets us use an NVIDIA GPU.
pub fn nvidia_present() -> bool {
    let hidden = |name: &str, values: &[&str]| std::env::var(name).is_ok_and(|value| values.contains(&value.trim()));
    // The CUDA runtime sees no device then, and the container toolkit gives none.
    if hidden("CUDA_VISIBLE_DEVICES", &["", "-1"]) || hidden("NVIDIA_VISIBLE_DEVICES", &["void", "none"]) {
        return false;
    }
    present_under(Path::new("/"))
}

/// Whether this is the name of a GPU's device node: `nvidia0`.
fn is_device(name: &str) -> bool {
    let number = name.strip_prefix("nvidia").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn present_under(root: &Path) -> bool {
    let holds_entries =
        |folder: &str| std::fs::read_dir(root.join(folder)).is_ok_and(|mut entries| entries.next().is_some());
    let device = || {
        let entries = std::fs::read_dir(root.join("dev")).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .any(|name| is_device(&name))
    };
    // Under WSL the driver is the Windows host's: a paravirtual device and its library.
    let wsl = || root.join("dev/dxg").exists() && root.join("usr/lib/wsl/lib/libcuda.so.1").exists();
    holds_entries("proc/driver/nvidia/gpus") || device() || wsl()
}

/// What is scarce on this machine, memory or disk, one sentence each: what runpod-python looks at
/// (`rp_system_fitness.py`, 1.12.0). There a worker with too little does not start; here it is warned of, since most graphs
/// need less. `folder` is on the disk that is written to. Blocks.
pub fn machine_warnings(limits: &FitnessConfig, folder: &Path) -> Vec<String> {
    if limits.skip_system {
        return Vec::new();
    }
    let memory = memory::available().and_then(|bytes| memory_warning(bytes, limits.min_memory_gib));
    let disk = disk::space(folder).ok().and_then(|space| {
        let percent = space.free as f64 * 100.0 / space.total as f64;
        disk_warning(disk::nearest(folder), percent, limits.min_disk_percent)
    });
    memory.into_iter().chain(disk).collect()
}

fn memory_warning(free: u64, least: f64) -> Option<String> {
    let gib = free as f64 / 1_073_741_824.0;
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
    fn a_device_node_or_the_drivers_list_or_wsl_is_a_gpu() {
        for files in [
            &["dev/nvidia0"][..],
            &["proc/driver/nvidia/gpus/0000:01:00.0"],
            &["dev/dxg", "usr/lib/wsl/lib/libcuda.so.1"],
        ] {
            let root = tempfile::tempdir().unwrap();
            for file in files {
                let path = root.path().join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "").unwrap();
            }
            assert!(present_under(root.path()), "{files:?}");
        }
    }

    #[test]
    fn the_control_device_alone_is_no_gpu() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("dev")).unwrap();
        std::fs::write(root.path().join("dev/nvidiactl"), "").unwrap();
        assert!(!present_under(root.path()));
    }

    #[test]
    fn scarce_memory_is_a_warning() {
        let warning = memory_warning(2 << 30, 4.0);
        assert!(warning.is_some_and(|text| text.starts_with("2.0 GiB")));
        assert_eq!(memory_warning(2 << 30, 2.0), None);
    }

    #[test]
    fn a_full_disk_is_a_warning() {
        let warning = disk_warning(Path::new("/data"), 9.94, 10.0);
        assert!(warning.is_some_and(|text| text.starts_with("9.9 % of the disk of /data")));
        assert_eq!(disk_warning(Path::new("/"), 10.0, 10.0), None);
        assert_eq!(disk_warning(Path::new("/"), f64::NAN, 10.0), None);
    }
}
