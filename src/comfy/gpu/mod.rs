//! The NVIDIA GPU: whether there is one, what its driver says of it, and whether that is enough.
//!
//! [`nvidia_present`] looks at files only: asking the driver takes up to a second, and ComfyUI is to be started in
//! milliseconds. [`facts`] asks `nvidia-smi`, and [`fitness`] judges what it said.

mod facts;
mod fitness;
mod machine;

pub use facts::{Gpu, GpuError, GpuFacts, facts};
pub use fitness::{TorchBuild, Unfit, fitness, torch_build};
pub use machine::machine_warnings;

use std::path::Path;

/// Whether this machine lets us use an NVIDIA GPU.
pub fn nvidia_present() -> bool {
    let hidden = |name: &str, values: &[&str]| std::env::var(name).is_ok_and(|value| values.contains(&value.trim()));
    // The CUDA runtime sees no device then, and the container toolkit gives none.
    if hidden("CUDA_VISIBLE_DEVICES", &["", "-1"]) || hidden("NVIDIA_VISIBLE_DEVICES", &["void", "none"]) {
        return false;
    }
    present_under(Path::new("/"))
}

fn present_under(root: &Path) -> bool {
    let holds_entries =
        |folder: &str| std::fs::read_dir(root.join(folder)).is_ok_and(|mut entries| entries.next().is_some());
    let device = || {
        let entries = std::fs::read_dir(root.join("dev")).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .any(|name| {
                name.strip_prefix("nvidia")
                    .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
            })
    };
    // Under WSL the driver is the Windows host's: a paravirtual device and its library.
    let wsl = || root.join("dev/dxg").exists() && root.join("usr/lib/wsl/lib/libcuda.so.1").exists();
    holds_entries("proc/driver/nvidia/gpus") || device() || wsl()
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
}
