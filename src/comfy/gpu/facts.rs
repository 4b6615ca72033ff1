//! What `nvidia-smi` tells. It is the only way that every driver has and that needs no library of ours.

use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::config::CudaVersion;

/// The longest that `nvidia-smi` may take. A healthy one takes less than a second; where no persistence daemon keeps the
/// driver awake, a few for each GPU.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// What is asked of each GPU. Not the driver's version: the name of that field is deprecated since driver 610
/// (docs.nvidia.com/deploy/nvidia-smi, change log), and the page has it anyway.
const QUERY: [&str; 2] = [
    "--query-gpu=index,name,memory.total,memory.free",
    "--format=csv,noheader,nounits",
];

/// The most characters of `nvidia-smi`'s words that an error repeats.
const QUOTED: usize = 300;

/// What the driver says of itself and of its GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuFacts {
    /// The driver's version, such as `570.86.15`.
    pub driver: Option<String>,
    /// The newest version of CUDA that the driver supports; [`None`] where the container has no CUDA driver library, or
    /// the driver does not say.
    pub cuda: Option<CudaVersion>,
    /// One entry a GPU, at least one.
    pub gpus: Vec<Gpu>,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its number.
    pub index: u32,
    /// Its name, such as `NVIDIA H200`.
    pub name: String,
    /// Its memory in MiB; [`None`] where it has none of its own, or tells nothing (a part of a GPU).
    pub memory_mib: Option<u64>,
    /// What is free of it, in MiB.
    pub free_mib: Option<u64>,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU {} ({}", self.index, self.name)?;
        match (self.memory_mib, self.free_mib) {
            (Some(total), Some(free)) => write!(f, ", {total} MiB, {free} MiB free)"),
            (Some(total), None) => write!(f, ", {total} MiB)"),
            (None, _) => f.write_str(")"),
        }
    }
}

/// Why nothing is known of the GPU.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// There is no such program.
    #[error("there is no `nvidia-smi`; with Docker, NVIDIA_DRIVER_CAPABILITIES must name `utility`")]
    NoProgram,
    /// It cannot be run.
    #[error("`nvidia-smi` cannot be run")]
    NotRun(#[source] std::io::Error),
    /// It hangs.
    #[error("`nvidia-smi` did not answer within {} s: the driver or the GPU hangs", TIME_LIMIT.as_secs())]
    TimedOut,
    /// There is a driver and no GPU.
    #[error("the NVIDIA driver finds no GPU")]
    NoDevice,
    /// It reports an error of the driver or of a GPU, in these words.
    #[error("`nvidia-smi` reports: {0}")]
    Failed(String),
}

/// Asks `nvidia-smi`; takes at most ten seconds.
pub async fn facts() -> Result<GpuFacts, GpuError> {
    facts_from(|| Command::new("nvidia-smi")).await
}

/// What the first GPU can compute, as NVIDIA numbers its generations: `(8, 9)` is Ada. [`None`] where `nvidia-smi` does not
/// say; drivers before 510 do not.
pub async fn compute_capability() -> Option<(u32, u32)> {
    let mut query = Command::new("nvidia-smi");
    query.args(["--query-gpu=compute_cap", "--format=csv,noheader"]);
    capability_of(&output(query).await.ok()?)
}

/// Reads `8.9`, the first line.
fn capability_of(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.lines().next()?.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

async fn facts_from(program: impl Fn() -> Command) -> Result<GpuFacts, GpuError> {
    let mut query = program();
    query.args(QUERY);
    let (gpus, page) = tokio::join!(output(query), output(program()));
    let gpus = gpus_of(&gpus?)?;
    // The page failed alone: the driver's versions stay unknown.
    let page = page.unwrap_or_default();
    Ok(GpuFacts {
        driver: word_after(&page, &["KMD Version:", "Driver Version:"]).map(str::to_owned),
        cuda: cuda_of(&page),
        gpus,
    })
}

/// What a command writes, if it succeeds.
pub(super) async fn output(mut command: Command) -> Result<String, GpuError> {
    let running = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let done = match tokio::time::timeout(TIME_LIMIT, running).await {
        Err(_) => return Err(GpuError::TimedOut),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return Err(GpuError::NoProgram),
        Ok(Err(error)) => return Err(GpuError::NotRun(error)),
        Ok(Ok(done)) => done,
    };
    // What it complains of is on standard output, on most of its ways.
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&done.stderr);
    Err(complaint(&format!("{text}\n{errors}"))
        .unwrap_or_else(|| failed(&format!("nothing, and ended with {}", done.status))))
}

/// What `nvidia-smi` complains of, in one line.
fn complaint(text: &str) -> Option<GpuError> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return None;
    }
    if lines.iter().any(|line| line.starts_with("No devices were found")) {
        return Some(GpuError::NoDevice);
    }
    Some(failed(&lines.join(" ")))
}

fn failed(words: &str) -> GpuError {
    GpuError::Failed(words.chars().take(QUOTED).collect())
}

/// Reads the answer to [`QUERY`]. A line that is no GPU is an error that `nvidia-smi` reports.
fn gpus_of(text: &str) -> Result<Vec<Gpu>, GpuError> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let gpus = lines.map(|line| gpu_of(line).ok_or_else(|| complaint(line).unwrap_or(GpuError::NoDevice)));
    let gpus: Vec<Gpu> = gpus.collect::<Result<_, _>>()?;
    if gpus.is_empty() {
        Err(GpuError::NoDevice)
    } else {
        Ok(gpus)
    }
}

/// `0, NVIDIA H200, 143771, 143232`
fn gpu_of(line: &str) -> Option<Gpu> {
    let (index, rest) = line.split_once(',')?;
    let mut ends = rest.rsplitn(3, ',').map(str::trim);
    let (free, total, name) = (ends.next()?, ends.next()?, ends.next()?);
    Some(Gpu {
        index: index.trim().parse().ok()?,
        name: name.to_owned(),
        memory_mib: amount(total)?,
        free_mib: amount(free)?,
    })
}

/// A number, or a word in brackets for one that is not there. The outer [`None`]: the GPU is broken, and says so in its
/// place (`[GPU is lost]`, `[Unknown Error]`, `ERR!`).
#[expect(
    clippy::option_option,
    reason = "a broken GPU and a number that is not there are two things"
)]
fn amount(text: &str) -> Option<Option<u64>> {
    match text {
        "[N/A]" | "N/A" | "[Not Supported]" | "[Insufficient Permissions]" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

/// The newest version of CUDA that the driver supports, from the page's head: `CUDA Version: 12.8`, and from driver 610
/// on `CUDA UMD Version: 13.3`. Before driver 410 it was not there.
fn cuda_of(page: &str) -> Option<CudaVersion> {
    word_after(page, &["CUDA UMD Version:", "CUDA Version:"])?.parse().ok()
}

fn word_after<'a>(text: &'a str, labels: &[&str]) -> Option<&'a str> {
    let rest = labels.iter().find_map(|label| text.split_once(label))?.1;
    rest.split_whitespace().next().filter(|word| *word != "|")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of the page, as drivers of several generations write it.
    const PAGES: [(&str, Option<&str>, Option<&str>); 8] = [
        (
            "| NVIDIA-SMI 390.116                Driver Version: 390.116                   |",
            Some("390.116"),
            None,
        ),
        (
            "| NVIDIA-SMI 470.57.02    Driver Version: 470.57.02    CUDA Version: 11.4     |",
            Some("470.57.02"),
            Some("11.4"),
        ),
        (
            "| NVIDIA-SMI 535.129.03             Driver Version: 535.129.03   CUDA Version: 12.2     |",
            Some("535.129.03"),
            Some("12.2"),
        ),
        (
            "| NVIDIA-SMI 570.86.15              Driver Version: 570.86.15      CUDA Version: 12.8     |",
            Some("570.86.15"),
            Some("12.8"),
        ),
        (
            "| NVIDIA-SMI 545.23.05              Driver Version: 545.84       CUDA Version: 12.3     |",
            Some("545.84"),
            Some("12.3"),
        ),
        // A container without the CUDA driver library.
        (
            "| NVIDIA-SMI 525.85.12    Driver Version: 525.85.12    CUDA Version: N/A      |",
            Some("525.85.12"),
            None,
        ),
        (
            "| NVIDIA-SMI 450.80.02    Driver Version: 450.80.02    CUDA Version: ERR!     |",
            Some("450.80.02"),
            None,
        ),
        (
            "| NVIDIA-SMI 610.43.02              KMD Version: 610.43.02     CUDA UMD Version: 13.3     |",
            Some("610.43.02"),
            Some("13.3"),
        ),
    ];

    #[test]
    fn the_head_of_each_generation_is_read() {
        for (page, driver, cuda) in PAGES {
            let page = format!(
                "Sat Nov 21 07:50:00 2026\n+----+\n{page}\n+----+\n|   0  ERR!   ERR!  ERR!    ERR! / ERR! |\n"
            );
            let seen = word_after(&page, &["KMD Version:", "Driver Version:"]);
            assert_eq!(seen, driver, "{page}");
            let seen = cuda_of(&page).map(|version| version.to_string());
            assert_eq!(seen.as_deref(), cuda, "{page}");
        }
    }

    #[test]
    fn a_capability_is_read_where_there_is_one() {
        assert_eq!(capability_of("8.9\n9.0\n"), Some((8, 9)));
        for other in ["", "[N/A]", "Field \"compute_cap\" is not a valid field to query.", "9"] {
            assert_eq!(capability_of(other), None, "{other}");
        }
    }

    #[test]
    fn each_gpu_is_a_line() {
        let text = "0, NVIDIA H200, 143771, 143232\n1, NVIDIA A100-SXM4-80GB, 81920, 12\n\n";
        let gpu = |index, name: &str, total, free| Gpu {
            index,
            name: name.to_owned(),
            memory_mib: total,
            free_mib: free,
        };
        assert_eq!(
            gpus_of(text).unwrap(),
            [
                gpu(0, "NVIDIA H200", Some(143_771), Some(143_232)),
                gpu(1, "NVIDIA A100-SXM4-80GB", Some(81_920), Some(12)),
            ]
        );
        // Memory that is shared with the processor, and a part of a GPU in a container.
        for word in ["[N/A]", "[Not Supported]", "[Insufficient Permissions]"] {
            let text = format!("0, NVIDIA GB10, {word}, {word}");
            assert_eq!(gpus_of(&text).unwrap(), [gpu(0, "NVIDIA GB10", None, None)]);
        }
    }

    #[test]
    fn what_is_no_gpu_is_an_error_in_its_own_words() {
        for line in [
            "Unable to determine the device handle for GPU 0000:01:00.0: Unknown Error",
            "Unable to determine the device handle for GPU0000:82:00.0: GPU is lost.  Reboot the system to recover this GPU",
            "0, NVIDIA A100-SXM4-80GB, [GPU is lost], [GPU is lost]",
            "0, NVIDIA GeForce RTX 3090, [Unknown Error], [Unknown Error]",
            "0, NVIDIA GeForce RTX 3090, ERR!, ERR!",
            "Field \"memory.total\" is not a valid field to query.",
        ] {
            let text = format!("1, NVIDIA H200, 143771, 143232\n{line}\n");
            let error = gpus_of(&text).unwrap_err();
            assert!(matches!(&error, GpuError::Failed(words) if words == line), "{error}");
        }
        for nothing in ["No devices were found\n", "", "\n"] {
            assert!(matches!(gpus_of(nothing), Err(GpuError::NoDevice)), "{nothing:?}");
        }
    }

    /// A shell in place of `nvidia-smi`; `$1` is its first argument.
    fn shell(script: &'static str) -> impl Fn() -> Command {
        move || {
            let mut command = Command::new("sh");
            command.args(["-c", script, "nvidia-smi"]);
            command
        }
    }

    #[tokio::test]
    async fn both_answers_are_put_together() {
        let program = shell(
            "case $1 in --query*) echo '0, NVIDIA H200, 143771, 143232';; *) echo '| Driver Version: 570.86.15  CUDA Version: 12.8 |';; esac",
        );
        let facts = facts_from(program).await.unwrap();
        assert_eq!(facts.driver.as_deref(), Some("570.86.15"));
        assert_eq!(facts.cuda, "12.8".parse().ok());
        assert_eq!(
            facts.gpus[0].to_string(),
            "GPU 0 (NVIDIA H200, 143771 MiB, 143232 MiB free)"
        );
    }

    #[tokio::test]
    async fn a_failure_is_told_in_its_own_words() {
        let mismatch = shell(
            "echo 'Failed to initialize NVML: Driver/library version mismatch'; echo 'NVML library version: 580.126'; exit 18",
        );
        let error = facts_from(mismatch).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "`nvidia-smi` reports: Failed to initialize NVML: Driver/library version mismatch NVML library version: 580.126"
        );
        let none = facts_from(shell("echo 'No devices were found'; exit 6")).await;
        assert!(matches!(none, Err(GpuError::NoDevice)));
        let silent = facts_from(shell("exit 9")).await.unwrap_err();
        assert!(silent.to_string().contains("exit status: 9"), "{silent}");
        let missing = facts_from(|| Command::new("no-such-nvidia-smi")).await;
        assert!(matches!(missing, Err(GpuError::NoProgram)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_given_up_and_killed() {
        let hangs = facts_from(shell("exec sleep 1000")).await;
        assert!(matches!(hangs, Err(GpuError::TimedOut)));
    }
}
