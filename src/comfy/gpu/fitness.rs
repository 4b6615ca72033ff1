//! Whether the GPU is enough for ComfyUI.

use crate::config::{CudaVersion, FitnessConfig};
use crate::display::error_chain;

use super::{GpuError, GpuFacts};

/// Why no jobs should be taken on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{check}: {reason}")]
pub struct Unfit {
    /// Which check failed: `gpu`, `gpu_memory` or `cuda`.
    pub check: &'static str,
    /// What is wrong and what to do.
    pub reason: String,
}

fn unfit(check: &'static str, reason: impl Into<String>) -> Unfit {
    Unfit {
        check,
        reason: reason.into(),
    }
}

/// What PyTorch was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TorchBuild {
    /// This version of CUDA.
    Cuda(CudaVersion),
    /// Something else than an NVIDIA GPU: the CPU, `ROCm`, XPU.
    Other,
    /// The version does not tell.
    Unknown,
}

/// Reads `system.pytorch_version` of ComfyUI's `/system_stats`, such as `2.7.0+cu128`. The part after the plus is
/// PyTorch's local version (pytorch.org, previous versions): the last digit is CUDA's minor version.
pub fn torch_build(pytorch_version: &str) -> TorchBuild {
    let Some((_, local)) = pytorch_version.split_once('+') else {
        return TorchBuild::Unknown;
    };
    if ["cpu", "rocm", "xpu"].iter().any(|other| local.starts_with(other)) {
        return TorchBuild::Other;
    }
    // `cu126.with.pypi.cudnn` has been seen too.
    let digits = local.strip_prefix("cu").and_then(|rest| rest.split('.').next());
    let version = digits.and_then(|digits| {
        let (major, minor) = digits.split_at_checked(digits.len().checked_sub(1)?)?;
        Some(CudaVersion {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    });
    version.map_or(TorchBuild::Unknown, TorchBuild::Cuda)
}

/// Judges what is known of the GPU; `torch` where ComfyUI runs and was asked. Gives what is worth a warning.
pub fn fitness(
    facts: Result<&GpuFacts, &GpuError>,
    torch: Option<TorchBuild>,
    limits: &FitnessConfig,
) -> Result<Vec<String>, Unfit> {
    if limits.skip_gpu {
        return Ok(Vec::new());
    }
    let facts = match facts {
        Ok(facts) => facts,
        // The GPU may do its work all the same.
        Err(error @ GpuError::NoProgram) => return Ok(vec![format!("the GPU was not checked: {error}")]),
        Err(error) => {
            let error = error_chain(error);
            return Err(unfit(
                "gpu",
                format!("{error}; this machine needs a working NVIDIA GPU: start the worker on another one"),
            ));
        }
    };
    let mut warnings = memory(facts, limits.min_gpu_memory_gb)?;
    warnings.extend(cuda(facts, torch, limits.min_cuda)?);
    Ok(warnings)
}

/// The largest GPU must do; of the others, and of memory that is taken, a warning is given.
fn memory(facts: &GpuFacts, least: f64) -> Result<Vec<String>, Unfit> {
    let gigabytes = |mib: u64| mib as f64 * 1_048_576.0 / 1e9;
    let is_small = |mib: Option<u64>| mib.is_some_and(|mib| gigabytes(mib) < least);
    let mut warnings = Vec::new();
    for gpu in &facts.gpus {
        let total = gigabytes(gpu.memory_mib.unwrap_or_default());
        if is_small(gpu.memory_mib) {
            warnings.push(format!("{gpu} has {total:.1} GB of memory, less than {least} GB"));
        } else if is_small(gpu.free_mib) {
            warnings.push(format!("{gpu} has less than {least} GB free: another program uses it"));
        }
    }
    if facts.gpus.iter().all(|gpu| is_small(gpu.memory_mib)) {
        let reason = format!("{}; choose a larger GPU for the endpoint", warnings.join("; "));
        return Err(unfit("gpu_memory", reason));
    }
    Ok(warnings)
}

/// What the driver supports against what is needed. A driver runs programs of its own major version, also of a later
/// minor one, as far as these use nothing new (docs.nvidia.com, CUDA compatibility, minor version compatibility).
fn cuda(facts: &GpuFacts, torch: Option<TorchBuild>, least: CudaVersion) -> Result<Option<String>, Unfit> {
    if torch == Some(TorchBuild::Other) {
        return Err(unfit(
            "cuda",
            "there is an NVIDIA GPU, and ComfyUI's PyTorch is built without CUDA: install one built for CUDA into the Python that runs it",
        ));
    }
    let driver = facts.driver.as_deref().unwrap_or("of unknown version");
    let Some(supported) = facts.cuda else {
        return Ok(Some(format!(
            "the driver ({driver}) does not say which CUDA it supports; that was not checked"
        )));
    };
    if supported < least {
        return Err(unfit(
            "cuda",
            format!(
                "the driver ({driver}) supports CUDA {supported}, and RUNPOD_MIN_CUDA_VERSION asks for {least}: choose a newer CUDA version for the endpoint"
            ),
        ));
    }
    match torch {
        Some(TorchBuild::Cuda(built)) if supported.major < built.major => Err(unfit(
            "cuda",
            format!(
                "the driver ({driver}) supports CUDA {supported}, and PyTorch is built for {built}: choose CUDA {}.0 or newer for the endpoint",
                built.major
            ),
        )),
        Some(TorchBuild::Cuda(built)) if supported < built => Ok(Some(format!(
            "the driver ({driver}) supports CUDA {supported}, and PyTorch is built for {built}: most works, some kernels may not"
        ))),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comfy::gpu::Gpu;

    const LIMITS: FitnessConfig = FitnessConfig {
        skip_gpu: false,
        min_gpu_memory_gb: 8.0,
        min_cuda: CudaVersion { major: 11, minor: 8 },
        skip_system: false,
        min_memory_gib: 4.0,
        min_disk_percent: 10.0,
    };

    /// Total and free memory of each GPU, in MiB.
    fn facts(cuda: Option<&str>, gpus: &[(Option<u64>, Option<u64>)]) -> GpuFacts {
        let gpus = gpus.iter().zip(0..).map(|((memory_mib, free_mib), index)| Gpu {
            index,
            name: "NVIDIA".to_owned(),
            memory_mib: *memory_mib,
            free_mib: *free_mib,
        });
        GpuFacts {
            driver: Some("570.86.15".to_owned()),
            cuda: cuda.map(|cuda| cuda.parse().unwrap()),
            gpus: gpus.collect(),
        }
    }

    fn judge(facts: &GpuFacts, torch: Option<&str>) -> Result<Vec<String>, Unfit> {
        fitness(Ok(facts), torch.map(torch_build), &LIMITS)
    }

    const LARGE: &[(Option<u64>, Option<u64>)] = &[(Some(24_564), Some(24_000))];

    #[test]
    fn builds_of_torch_are_told_apart() {
        let cuda = |major, minor| TorchBuild::Cuda(CudaVersion { major, minor });
        for (version, build) in [
            ("2.7.0+cu128", cuda(12, 8)),
            ("2.0.1+cu118", cuda(11, 8)),
            ("2.9.0+cu130", cuda(13, 0)),
            ("1.10.2+cu92", cuda(9, 2)),
            ("2.8.0.dev20250501+cu128", cuda(12, 8)),
            ("2.6.0+cu126.with.pypi.cudnn", cuda(12, 6)),
            ("2.9.1+cpu", TorchBuild::Other),
            ("2.7.0+rocm6.2.4", TorchBuild::Other),
            ("2.7.0", TorchBuild::Unknown),
            ("2.7.0a0+79aa17489c.nv25.04", TorchBuild::Unknown),
            ("2.7.0+cu", TorchBuild::Unknown),
            ("2.7.0+cuü", TorchBuild::Unknown),
            ("", TorchBuild::Unknown),
        ] {
            assert_eq!(torch_build(version), build, "{version}");
        }
    }

    #[test]
    fn a_fit_gpu_gives_no_warning() {
        for torch in [None, Some("2.7.0+cu128"), Some("2.7.0+cu118"), Some("2.7.0")] {
            assert_eq!(judge(&facts(Some("12.8"), LARGE), torch), Ok(vec![]), "{torch:?}");
        }
        // A card of 8 GB.
        assert_eq!(
            judge(&facts(Some("12.8"), &[(Some(8188), Some(8188))]), None),
            Ok(vec![])
        );
        // Memory that is shared with the processor.
        assert_eq!(judge(&facts(Some("12.8"), &[(None, None)]), None), Ok(vec![]));
    }

    #[test]
    fn the_largest_gpu_must_have_enough_memory() {
        let small = judge(&facts(Some("12.8"), &[(Some(6144), Some(6000))]), None).unwrap_err();
        assert_eq!(small.check, "gpu_memory");
        assert!(
            small.reason.contains("6.4 GB") && small.reason.contains("less than 8 GB"),
            "{small}"
        );
        let beside = judge(&facts(Some("12.8"), &[(Some(24_564), None), (Some(4096), None)]), None).unwrap();
        assert!(
            matches!(&beside[..], [warning] if warning.starts_with("GPU 1")),
            "{beside:?}"
        );
        let taken = judge(&facts(Some("12.8"), &[(Some(24_564), Some(300))]), None).unwrap();
        assert!(
            matches!(&taken[..], [warning] if warning.contains("300 MiB free")),
            "{taken:?}"
        );
    }

    #[test]
    fn an_older_major_version_is_unfit_and_a_minor_one_a_warning() {
        let minor = judge(&facts(Some("12.4"), LARGE), Some("2.7.0+cu128")).unwrap();
        assert!(
            matches!(&minor[..], [warning] if warning.contains("12.4") && warning.contains("12.8")),
            "{minor:?}"
        );
        for (driver, torch, said) in [
            ("12.8", "2.9.0+cu130", "choose CUDA 13.0 or newer"),
            ("11.4", "2.0.1+cu118", "RUNPOD_MIN_CUDA_VERSION asks for 11.8"),
            ("12.8", "2.9.0+cpu", "built without CUDA"),
        ] {
            let error = judge(&facts(Some(driver), LARGE), Some(torch)).unwrap_err();
            assert_eq!(error.check, "cuda");
            assert!(error.reason.contains(said), "{error}");
        }
        let unknown = judge(&facts(None, LARGE), Some("2.9.0+cu130")).unwrap();
        assert!(
            matches!(&unknown[..], [warning] if warning.contains("was not checked")),
            "{unknown:?}"
        );
    }

    #[test]
    fn no_gpu_and_a_broken_one_are_unfit() {
        let broken = GpuError::Failed("GPU is lost".to_owned());
        for error in [GpuError::NoDevice, GpuError::TimedOut, broken] {
            let unfit = fitness(Err(&error), None, &LIMITS).unwrap_err();
            assert_eq!(unfit.check, "gpu");
            assert!(unfit.reason.contains(&error.to_string()), "{unfit}");
        }
        let unknown = fitness(Err(&GpuError::NoProgram), None, &LIMITS).unwrap();
        assert_eq!(unknown.len(), 1);
    }

    #[test]
    fn nothing_is_checked_when_that_is_switched_off() {
        let limits = FitnessConfig {
            skip_gpu: true,
            ..LIMITS
        };
        assert_eq!(fitness(Err(&GpuError::NoDevice), None, &limits), Ok(vec![]));
        assert_eq!(
            fitness(
                Ok(&facts(Some("9.0"), &[(Some(1), None)])),
                Some(TorchBuild::Other),
                &limits
            ),
            Ok(vec![])
        );
    }
}
