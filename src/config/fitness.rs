//! What a machine must have before jobs are taken. The variables `RUNPOD_…` are those of runpod-python's own checks
//! (1.12.0, `rp_gpu_fitness.py` and `rp_system_fitness.py`), with its defaults.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::Deserialize;

use super::variable::{Reader, Variable, boolean};

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

const MIN_GPU_MEMORY_GB: Variable = Variable {
    name: "MIN_GPU_MEMORY_GB",
    kind: "GB, 0 to 10000",
    default: Some("8"),
    example: "24",
    meaning: "Least memory of the GPU; with less a RunPod worker does not start.",
    secret: false,
};
const RUNPOD_MIN_CUDA_VERSION: Variable = Variable {
    name: "RUNPOD_MIN_CUDA_VERSION",
    kind: "version",
    default: Some("11.8"),
    example: "12.8",
    meaning: "Oldest version of CUDA that the driver may support; with an older one a RunPod worker does not start.",
    secret: false,
};
const RUNPOD_SKIP_GPU_CHECK: Variable = Variable {
    name: "RUNPOD_SKIP_GPU_CHECK",
    kind: "true or false",
    default: Some("false"),
    example: "true",
    meaning: "Check nothing of the GPU. A RunPod worker without one then runs on the CPU.",
    secret: false,
};
const RUNPOD_MIN_MEMORY_GB: Variable = Variable {
    name: "RUNPOD_MIN_MEMORY_GB",
    kind: "GiB, 0 to 100000",
    default: Some("4.0"),
    example: "16",
    meaning: "Least free memory; with less a warning is logged.",
    secret: false,
};
const RUNPOD_MIN_DISK_PERCENT: Variable = Variable {
    name: "RUNPOD_MIN_DISK_PERCENT",
    kind: "percent, 0 to 100",
    default: Some("10.0"),
    example: "5",
    meaning: "Least free part of the disk; with less a warning is logged.",
    secret: false,
};
const RUNPOD_SKIP_AUTO_SYSTEM_CHECKS: Variable = Variable {
    name: "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS",
    kind: "true or false",
    default: Some("false"),
    example: "true",
    meaning: "Look neither at free memory nor at the disk.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[
    &MIN_GPU_MEMORY_GB,
    &RUNPOD_MIN_CUDA_VERSION,
    &RUNPOD_SKIP_GPU_CHECK,
    &RUNPOD_MIN_MEMORY_GB,
    &RUNPOD_MIN_DISK_PERCENT,
    &RUNPOD_SKIP_AUTO_SYSTEM_CHECKS,
];

#[derive(Deserialize, Default)]
struct Raw {
    min_gpu_memory_gb: Option<String>,
    runpod_min_cuda_version: Option<String>,
    runpod_skip_gpu_check: Option<String>,
    runpod_min_memory_gb: Option<String>,
    runpod_min_disk_percent: Option<String>,
    runpod_skip_auto_system_checks: Option<String>,
}

fn number(range: RangeInclusive<f64>) -> impl Fn(&str) -> Result<f64, String> {
    move |text| match text.parse::<f64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("is no number from {} to {}", range.start(), range.end())),
    }
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<FitnessConfig> {
    let raw: Raw = reader.raw(vars);
    let gpu_memory = reader.value(&MIN_GPU_MEMORY_GB, raw.min_gpu_memory_gb, number(0.0..=10_000.0));
    let min_cuda = reader.value(&RUNPOD_MIN_CUDA_VERSION, raw.runpod_min_cuda_version, str::parse);
    let skip_gpu = reader.value(&RUNPOD_SKIP_GPU_CHECK, raw.runpod_skip_gpu_check, boolean);
    let memory = reader.value(&RUNPOD_MIN_MEMORY_GB, raw.runpod_min_memory_gb, number(0.0..=100_000.0));
    let disk = reader.value(
        &RUNPOD_MIN_DISK_PERCENT,
        raw.runpod_min_disk_percent,
        number(0.0..=100.0),
    );
    let skip_system = reader.value(
        &RUNPOD_SKIP_AUTO_SYSTEM_CHECKS,
        raw.runpod_skip_auto_system_checks,
        boolean,
    );
    Some(FitnessConfig {
        skip_gpu: skip_gpu?,
        min_gpu_memory_gb: gpu_memory?,
        min_cuda: min_cuda?,
        skip_system: skip_system?,
        min_memory_gib: memory?,
        min_disk_percent: disk?,
    })
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
        assert_eq!(number(0.0..=100.0)("4.5"), Ok(4.5));
        for wrong in ["", "-1", "100.1", "NaN", "inf", "many"] {
            assert!(number(0.0..=100.0)(wrong).is_err(), "{wrong}");
        }
    }
}
