//! What a machine must have before jobs are taken. The variables `RUNPOD_…` are those of runpod-python's own checks
//! (1.12.0, `rp_gpu_fitness.py` and `rp_system_fitness.py`), with its defaults.

use std::fmt;
use std::str::FromStr;

use super::retired::MIN_GPU_MEMORY_GB;
use super::variable::{Reader, Variable, number, parsed, switch};

/// Limits of the checks at a worker's start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitnessConfig {
    /// Whether nothing of the GPU is checked; without one, `ComfyUI` then runs on the CPU.
    pub skip_gpu: bool,
    /// The least memory of the GPU, in GB (10^9 bytes, as cards are sold: one of 8 GB has 8188 MiB).
    pub min_gpu_memory_gb: f64,
    /// The oldest version of CUDA that the driver may support.
    pub min_cuda: CudaVersion,
    /// Whether memory and disk are not looked at.
    pub skip_system: bool,
    /// The least free memory, in GiB, below which a warning is due.
    pub min_memory_gib: f64,
    /// The least free part of the disk, in percent, below which a warning is due.
    pub min_disk_percent: f64,
}

/// A version of CUDA, such as 12.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    /// Programs for another major version need a driver for that.
    pub major: u32,
    /// Programs for a later minor version run, with exceptions.
    pub minor: u32,
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for CudaVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        match (major.parse(), minor.parse()) {
            (Ok(major), Ok(minor)) => Ok(Self { major, minor }),
            _ => Err("is no version such as 12.8".to_owned()),
        }
    }
}

const RUNPOD_MIN_CUDA_VERSION: Variable<CudaVersion> = parsed("RUNPOD_MIN_CUDA_VERSION", "version", str::parse)
    .default_and_example("11.8", "12.8")
    .meaning("Oldest version of CUDA that the driver may support; with an older one a RunPod worker does not start.");
const RUNPOD_SKIP_GPU_CHECK: Variable<bool> = switch("RUNPOD_SKIP_GPU_CHECK", false)
    .meaning("Check nothing of the GPU. A RunPod worker without one then runs on the CPU.");
const RUNPOD_MIN_MEMORY_GB: Variable<f64> = number("RUNPOD_MIN_MEMORY_GB", "GiB", 0.0..=100_000.0)
    .default_and_example("4.0", "16")
    .meaning("Least free memory; with less a warning is logged.");
const RUNPOD_MIN_DISK_PERCENT: Variable<f64> = number("RUNPOD_MIN_DISK_PERCENT", "percent", 0.0..=100.0)
    .default_and_example("10.0", "5")
    .meaning("Least free part of the disk; with less a warning is logged.");
const RUNPOD_SKIP_AUTO_SYSTEM_CHECKS: Variable<bool> =
    switch("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", false).meaning("Look neither at free memory nor at the disk.");

pub(super) fn read(reader: &mut Reader) -> FitnessConfig {
    FitnessConfig {
        min_gpu_memory_gb: reader.value(&MIN_GPU_MEMORY_GB),
        min_cuda: reader.value(&RUNPOD_MIN_CUDA_VERSION),
        skip_gpu: reader.value(&RUNPOD_SKIP_GPU_CHECK),
        min_memory_gib: reader.value(&RUNPOD_MIN_MEMORY_GB),
        min_disk_percent: reader.value(&RUNPOD_MIN_DISK_PERCENT),
        skip_system: reader.value(&RUNPOD_SKIP_AUTO_SYSTEM_CHECKS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_by_number() {
        let version = |text: &str| text.parse::<CudaVersion>();
        assert_eq!(version("12.8").unwrap().to_string(), "12.8");
        assert_eq!(version("12"), version("12.0"));
        assert!(version("12.10") > version("12.9") && version("13.0") > version("12.10"));
        for wrong in ["", "12.", "cu128", "12.8.1", "-1.0"] {
            assert!(version(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_keep_within_their_range() {
        let number = |text| RUNPOD_MIN_DISK_PERCENT.parse(text);
        assert_eq!(number("4.5"), Ok(4.5));
        for wrong in ["", "-1", "100.1", "NaN", "inf", "many"] {
            assert!(number(wrong).is_err(), "{wrong}");
        }
    }
}
