//! Which GPUs get a ComfyUI each (`GPUS`).

use std::path::Path;

use tokio::process::Command;

use super::facts::{GpuError, output};
use crate::config::GpuChoice;

/// Asks what the choice needs of each GPU.
const QUERY: [&str; 2] = ["--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"];

/// A GPU that gets a ComfyUI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenGpu {
    /// What its ComfyUI is called: `gpu0`, by the number that `nvidia-smi` has for it; a part of a GPU, `mig0` by its place in `GPUS`.
    pub name: String,
    /// What CUDA calls it.
    pub uuid: String,
}

/// Why GPUs that are named get none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChoiceError {
    /// The driver does not say which there are.
    #[error("GPUS names GPUs, and which there are is not known")]
    Unknown(#[source] GpuError),
    /// There is none of that name.
    #[error("GPUS names GPU {named}, which is not there; there are: {there}")]
    Missing {
        /// As it is named.
        named: String,
        /// The numbers and UUIDs of those that are there.
        there: String,
    },
}

/// One that the driver tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    index: u32,
    uuid: String,
    memory_mib: u64,
}

impl Told {
    fn chosen(&self) -> ChosenGpu {
        ChosenGpu {
            name: format!("gpu{}", self.index),
            uuid: self.uuid.clone(),
        }
    }

    fn is(&self, named: &str) -> bool {
        let number = named.parse::<u32>();
        // CUDA takes the begin of a UUID too.
        number.map_or_else(|_| self.uuid.starts_with(named), |number| number == self.index)
    }
}

/// The GPUs that get a ComfyUI each; none, where it is left to ComfyUI which one it takes. Takes at most ten seconds, and
/// milliseconds on a machine with one GPU.
pub async fn choose(choice: &GpuChoice) -> Result<Vec<ChosenGpu>, ChoiceError> {
    let listed = match choice {
        GpuChoice::None => return Ok(Vec::new()),
        // With one there is nothing to choose, and the driver need not be waited for.
        GpuChoice::Auto if devices_under(Path::new("/dev")) < 2 => return Ok(Vec::new()),
        GpuChoice::Auto => None,
        GpuChoice::Listed(listed) => Some(listed),
    };
    let mut query = Command::new("nvidia-smi");
    query.args(QUERY);
    let told = output(query).await.map(|text| told_of(&text));
    match (listed, told) {
        (Some(listed), Ok(told)) => by_name(listed, &told),
        (Some(_), Err(error)) => Err(ChoiceError::Unknown(error)),
        (None, Ok(told)) => {
            let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
            let chosen = all_good(&told, visible.as_deref());
            // ComfyUI takes that one anyway.
            Ok(if chosen.len() > 1 { chosen } else { Vec::new() })
        }
        (None, Err(error)) => {
            tracing::warn!("one ComfyUI is started, on the first GPU: which others there are is not known: {error}");
            Ok(Vec::new())
        }
    }
}

/// How many GPUs have a device node.
fn devices_under(dev: &Path) -> usize {
    let entries = std::fs::read_dir(dev).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| super::is_device(name)).count()
}

/// Reads the answer to [`QUERY`]. A GPU that is broken says so in the place of a number, and is left out.
fn told_of(text: &str) -> Vec<Told> {
    let told = text.lines().filter_map(|line| {
        let mut words = line.split(',').map(str::trim);
        let (index, uuid, memory) = (words.next()?, words.next()?, words.next()?);
        let is_broken = memory.contains("lost") || memory.contains("ERR") || memory.contains("Unknown");
        let index = index.parse().ok().filter(|_| uuid.starts_with("GPU-") && !is_broken)?;
        Some(Told {
            index,
            uuid: uuid.to_owned(),
            // Some share the machine's memory and tell none.
            memory_mib: memory.parse().unwrap_or_default(),
        })
    });
    told.collect()
}

fn by_name(listed: &[String], told: &[Told]) -> Result<Vec<ChosenGpu>, ChoiceError> {
    let mut chosen: Vec<ChosenGpu> = Vec::new();
    for named in listed {
        let gpu = match told.iter().find(|gpu| gpu.is(named)) {
            Some(gpu) => gpu.chosen(),
            // Which parts of GPUs there are is not asked; CUDA finds them by their UUIDs.
            None if named.starts_with("MIG-") => ChosenGpu {
                // Their UUIDs may differ in the last letter alone.
                name: format!("mig{}", chosen.len()),
                uuid: named.clone(),
            },
            None => {
                let there = told.iter().map(|gpu| format!("{} ({})", gpu.index, gpu.uuid));
                let there = there.collect::<Vec<_>>().join(", ");
                return Err(ChoiceError::Missing {
                    named: named.clone(),
                    there: if there.is_empty() { "none".to_owned() } else { there },
                });
            }
        };
        // The same one by its number and its UUID.
        if !chosen.iter().any(|other| other.uuid == gpu.uuid) {
            chosen.push(gpu);
        }
    }
    Ok(chosen)
}

/// Those that may be used and that are as good as the best, nearly: on one that only drives a screen, jobs would run out of
/// memory.
fn all_good(told: &[Told], visible: Option<&str>) -> Vec<ChosenGpu> {
    let visible: Option<Vec<&str>> = visible.map(|visible| visible.split(',').map(str::trim).collect());
    let is_visible = |gpu: &&Told| {
        let Some(visible) = &visible else { return true };
        // CUDA reads no further than to the first that is none.
        let mut visible = visible.iter().take_while(|named| !named.is_empty() && **named != "-1");
        visible.any(|named| gpu.is(named))
    };
    let seen: Vec<&Told> = told.iter().filter(is_visible).collect();
    let largest = seen.iter().map(|gpu| gpu.memory_mib).max().unwrap_or_default();
    let (good, small): (Vec<&Told>, Vec<&Told>) = seen.into_iter().partition(|gpu| gpu.memory_mib * 4 >= largest * 3);
    for gpu in small {
        tracing::info!(
            "GPU {} has much less memory than others ({} of {largest} MiB) and gets no ComfyUI; GPUS names it to give it one",
            gpu.index,
            gpu.memory_mib
        );
    }
    good.into_iter().map(Told::chosen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "0, GPU-aa11, 143771\n1, GPU-bb22, 143771\n2, GPU-cc33, 2048\n3, GPU-dd44, [GPU is lost]\nUnable to determine the device handle\n";

    fn names(chosen: &[ChosenGpu]) -> Vec<&str> {
        chosen.iter().map(|gpu| gpu.name.as_str()).collect()
    }

    #[test]
    fn every_good_one_that_may_be_seen_is_chosen() {
        let told = told_of(ANSWER);
        assert_eq!(told.len(), 3, "a broken one is left out");
        assert_eq!(names(&all_good(&told, None)), ["gpu0", "gpu1"]);
        assert_eq!(names(&all_good(&told, Some("1,2"))), ["gpu1"]);
        assert_eq!(names(&all_good(&told, Some("GPU-bb,GPU-aa11"))), ["gpu0", "gpu1"]);
        assert_eq!(names(&all_good(&told, Some("2"))), ["gpu2"]);
        assert_eq!(names(&all_good(&told, Some("7"))), [""; 0]);
        let shared = told_of("0, GPU-aa11, [N/A]\n");
        assert_eq!(names(&all_good(&shared, None)), ["gpu0"]);
    }

    #[test]
    fn those_that_are_named_are_there() {
        let told = told_of(ANSWER);
        let chosen = |words: &[&str]| by_name(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>(), &told);
        let two = chosen(&["2", "GPU-aa11", "0"]).unwrap();
        assert_eq!(names(&two), ["gpu2", "gpu0"]);
        assert_eq!(two[1].uuid, "GPU-aa11");
        let parts = chosen(&["MIG-GPU-aa11/7/0", "MIG-GPU-aa11/8/0"]).unwrap();
        assert_eq!(names(&parts), ["mig0", "mig1"]);
        let part = chosen(&["MIG-0123456789ab"]).unwrap();
        assert_eq!(
            (names(&part), part[0].uuid.as_str()),
            (vec!["mig0"], "MIG-0123456789ab")
        );
        let error = chosen(&["0", "4"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "GPUS names GPU 4, which is not there; there are: 0 (GPU-aa11), 1 (GPU-bb22), 2 (GPU-cc33)"
        );
    }

    #[test]
    fn only_gpus_count_of_the_devices() {
        let dev = tempfile::tempdir().unwrap();
        for name in ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"] {
            std::fs::write(dev.path().join(name), "").unwrap();
        }
        assert_eq!(devices_under(dev.path()), 2);
    }
}
