//! What the words of an exception tell: torch, CUDA and the libraries around them have few classes for it.

use crate::comfy::message::ExecutionError;

/// How torch begins when the machine's own memory is too small.
const CPU_ALLOCATOR: &str = "DefaultCPUAllocator";

/// After these the process cannot use the GPU any more: CUDA refuses every call until it is another one
/// (docs.nvidia.com/cuda, "CUDA Error Codes").
const STICKY: [&str; 12] = [
    "cuda error",
    "hip error",
    "device-side assert",
    "illegal memory access",
    "unspecified launch failure",
    "misaligned address",
    "cudnn_status_internal_error",
    "cudnn_status_execution_failed",
    "cublas_status_internal_error",
    "cublas_status_execution_failed",
    "uncorrectable ecc error",
    "fell off the bus",
];

/// CUDA errors that leave the process as it was: the call was a wrong one, or nothing on this GPU can run it.
const NOT_STICKY: [&str; 6] = [
    "invalid argument",
    "invalid configuration argument",
    "invalid device ordinal",
    "no kernel image is available",
    "operation not supported",
    "not permitted",
];

/// Words of exceptions that are about the file that a loader was to read, in lower case.
const OF_A_FILE: [&str; 21] = [
    "no such file",
    "is a directory",
    "permission denied",
    "input/output error",
    "deserializing header",
    "invalidheader",
    "headertoo",
    "incompletemetadata",
    "metadataincomplete",
    "pytorchstreamreader",
    "zip archive",
    "invalid magic number",
    "invalid load key",
    "weights_only",
    "unexpected eof",
    "truncated",
    "corrupt",
    "could not detect model type",
    "is invalid: none",
    "state_dict",
    "size mismatch",
];

/// Classes of exceptions that a file of another kind leads to, or one that is damaged.
const OF_A_FILES_CONTENT: [&str; 6] = [
    "FileNotFoundError",
    "SafetensorError",
    "UnpicklingError",
    "EOFError",
    "BadZipFile",
    "KeyError",
];

/// Where memory is too small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// The GPU's.
    Gpu,
    /// The machine's own.
    Ram,
}

/// The memory that ran out. torch's exception class is `OutOfMemoryError`; other back ends, and ComfyUI's own allocator,
/// only say so in words. `NumPy` has its own, and Python's says nothing.
pub(super) fn out_of_memory(error: &ExecutionError) -> Option<Memory> {
    let said = error.exception_message.to_ascii_lowercase();
    let class = error.exception_type.as_str();
    if error.exception_message.contains(CPU_ALLOCATOR) || said.contains("unable to allocate") {
        return Some(Memory::Ram);
    }
    let of_the_gpu = class.ends_with("OutOfMemoryError")
        || ["out of memory", "allocation on device", "cublas_status_alloc_failed"]
            .iter()
            .any(|words| said.contains(words));
    if of_the_gpu {
        return Some(Memory::Gpu);
    }
    (class == "MemoryError" || class.ends_with("ArrayMemoryError")).then_some(Memory::Ram)
}

/// Whether what was asked for is more than there is at all, so that the same graph fails on this machine each time.
/// `ram` is the machine's whole memory in bytes, where that is known.
pub(super) fn asks_too_much(memory: Memory, error: &ExecutionError, ram: Option<u64>) -> bool {
    let said = error.exception_message.to_ascii_lowercase();
    let asked = ["tried to allocate ", "unable to allocate ", "can't allocate memory: "]
        .iter()
        .find_map(|words| size_after(&said, words));
    let there = match memory {
        Memory::Gpu => size_after(&said, "total capacity of "),
        Memory::Ram => ram.map(|bytes| bytes as f64),
    };
    // An allocation that the system refuses would not fit; what it refuses for want of room at the moment is smaller.
    matches!((asked, there), (Some(asked), Some(there)) if asked > there)
}

/// The bytes that `20.00 GiB`, or a number alone, behind `words` stands for.
fn size_after(said: &str, words: &str) -> Option<f64> {
    let rest = said.split_once(words)?.1;
    let mut parts = rest.split_whitespace();
    // `DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes. Error code 12`
    let number: f64 = parts.next()?.trim_end_matches(['.', ',']).parse().ok()?;
    let unit = parts.next().unwrap_or_default().trim_end_matches(['.', ',', ';']);
    let factor = match unit {
        "kib" => 1024.0,
        "mib" => 1024_f64.powi(2),
        "gib" => 1024_f64.powi(3),
        "tib" => 1024_f64.powi(4),
        "pib" => 1024_f64.powi(5),
        "eib" => 1024_f64.powi(6),
        _ => 1.0,
    };
    Some(number * factor)
}

/// The machine's whole memory, in bytes (proc(5)).
pub(super) fn machine_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Whether the process can use the GPU no more.
pub(super) fn breaks_the_gpu(error: &ExecutionError) -> bool {
    let said = error.exception_message.to_ascii_lowercase();
    STICKY.iter().any(|words| said.contains(words)) && !NOT_STICKY.iter().any(|words| said.contains(words))
}

/// Whether a loader's exception is about its file: missing, damaged, or of another kind.
pub(super) fn is_about_the_file(error: &ExecutionError, file: &str) -> bool {
    let said = error.exception_message.to_ascii_lowercase();
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file).to_ascii_lowercase();
    OF_A_FILES_CONTENT
        .iter()
        .any(|class| error.exception_type.ends_with(class))
        || OF_A_FILE.iter().any(|words| said.contains(words))
        || said.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(class: &str, message: &str) -> ExecutionError {
        ExecutionError {
            exception_type: class.to_owned(),
            exception_message: message.to_owned(),
            ..ExecutionError::default()
        }
    }

    #[test]
    fn each_memory_is_told_from_the_other() {
        for (class, message, memory) in [
            ("torch.OutOfMemoryError", "Allocation on device", Some(Memory::Gpu)),
            ("RuntimeError", "CUDA error: out of memory\n", Some(Memory::Gpu)),
            (
                "RuntimeError",
                "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 3298534883328 bytes. Error code 12 (Cannot allocate memory)",
                Some(Memory::Ram),
            ),
            (
                "numpy._core._exceptions._ArrayMemoryError",
                "Unable to allocate 3.00 TiB for an array with shape (4096, 8192, 8192, 3) and data type float32",
                Some(Memory::Ram),
            ),
            ("MemoryError", "", Some(Memory::Ram)),
            ("RuntimeError", "boom", None),
        ] {
            assert_eq!(out_of_memory(&error(class, message)), memory, "{message}");
        }
    }

    #[test]
    fn what_cannot_fit_is_the_graphs_fault() {
        const GIB: u64 = 1 << 30;
        let of_torch = |bytes: u64| {
            let said = format!(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate {bytes} bytes. Error code 12"
            );
            error("RuntimeError", &said)
        };
        let ram = |error: &ExecutionError| asks_too_much(Memory::Ram, error, Some(64 * GIB));
        assert!(ram(&of_torch(3072 * GIB)) && !ram(&of_torch(10 * GIB)));
        assert!(ram(&error("x", "Unable to allocate 3.00 TiB for an array")));
        assert!(!ram(&error("MemoryError", "")));
        let gpu = |asked: &str| {
            let said = format!(
                "CUDA out of memory. Tried to allocate {asked}. GPU 0 has a total capacity of 23.99 GiB of which"
            );
            asks_too_much(Memory::Gpu, &error("torch.OutOfMemoryError", &said), Some(64 * GIB))
        };
        assert!(gpu("161.46 GiB") && !gpu("20.00 GiB") && !gpu("512.00 MiB"));
        let silent = error("torch.OutOfMemoryError", "Tried to allocate 161.46 GiB");
        assert!(!asks_too_much(Memory::Gpu, &silent, Some(64 * GIB)));
    }

    #[test]
    fn errors_that_stay_are_known() {
        for message in [
            "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported",
            "CUDA error: device-side assert triggered",
            "CUDA error: unspecified launch failure",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
            "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(…)`",
        ] {
            assert!(breaks_the_gpu(&error("RuntimeError", message)), "{message}");
        }
        for message in [
            "CUDA error: no kernel image is available for execution on the device",
            "CUDA error: invalid configuration argument",
            "mat1 and mat2 shapes cannot be multiplied",
            "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
        ] {
            assert!(!breaks_the_gpu(&error("RuntimeError", message)), "{message}");
        }
    }

    #[test]
    fn only_some_exceptions_of_loaders_are_about_their_file() {
        let about = |class: &str, message: &str| is_about_the_file(&error(class, message), "qwen/x.safetensors");
        for (class, message) in [
            (
                "FileNotFoundError",
                "Model in folder 'unet' with filename 'y' not found.",
            ),
            (
                "safetensors_rust.SafetensorError",
                "Error while deserializing header: header too large",
            ),
            (
                "RuntimeError",
                "ERROR: Could not detect model type of: /models/unet/qwen/x.safetensors",
            ),
            ("RuntimeError", "ERROR: VAE is invalid: None"),
            ("_pickle.UnpicklingError", "invalid load key, '<'."),
            ("RuntimeError", "PytorchStreamReader failed reading zip archive"),
            ("KeyError", "'model.weight'"),
        ] {
            assert!(about(class, message), "{class}: {message}");
        }
        for (class, message) in [
            ("RuntimeError", "Expected all tensors to be on the same device"),
            ("ValueError", "weight_dtype must be one of fp8"),
            ("ImportError", "DLL load failed"),
        ] {
            assert!(!about(class, message), "{class}: {message}");
        }
    }
}
