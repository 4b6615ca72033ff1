//! What ComfyUI says of a graph that failed, in words that tell the user where and what next. The sentences at the
//! begin are the API documentation's: `Invalid workflow JSON structure`, `Failed to load model: NAME`,
//! `CUDA out of memory`.

use serde_json::Value;

use crate::comfy::client::Rejection;
use crate::comfy::memory;
use crate::comfy::message::ExecutionError;
use crate::echo;
use crate::error::{ErrorKind, JobError, Problem};
use crate::workflow::{Graph, INVALID_WORKFLOW, Node, closest_files, is_loader};

use super::inputs::name_in_request;

/// The longest part of an exception's text that an answer repeats, in characters.
const LONGEST_EXCEPTION: usize = 1000;

/// The most bytes of one thing that ComfyUI finds wrong with a graph, and of the first line of an exception.
const LONGEST_REFUSAL: usize = 600;
const LONGEST_LINE: usize = 600;

/// How many of a request's images are named where another one was meant.
const NAMED_IMAGES: usize = 8;

/// The advice where a loader could not read an image.
const UNREADABLE: &str = "The file is no image that can be read; send PNG, JPEG or WebP.";

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

/// `/prompt` refused the graph, or took only a part of it.
pub(super) fn rejected(rejection: &Rejection, graph: &Graph) -> JobError {
    let mut problems = Vec::new();
    let mut missing_model = None;
    for (node_id, entry) in &rejection.node_errors {
        let class_type = entry.get("class_type").and_then(Value::as_str).map(str::to_owned);
        let errors = entry.get("errors").and_then(Value::as_array);
        for error in errors.into_iter().flatten() {
            let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
            let input = error
                .pointer("/extra_info/input_name")
                .and_then(Value::as_str)
                .map(str::to_owned);
            if text("type") == "value_not_in_list"
                && let Some(file) = input.as_deref().and_then(|input| file_named_by(graph, node_id, input))
            {
                missing_model.get_or_insert(file);
            }
            let (message, details) = (text("message"), text("details"));
            let message = if details.is_empty() {
                message.to_owned()
            } else {
                format!("{message}: {details}")
            };
            // It repeats the value, and the list in which the value is not.
            let message = echo::at_most(message, LONGEST_REFUSAL);
            problems.push(Problem {
                node_id: Some(node_id.clone()),
                class_type: class_type.clone(),
                input,
                message,
                ..Problem::default()
            });
        }
    }
    let reason = rejection.error.clone().unwrap_or_default();
    let said = match (reason.message.as_str(), reason.details.trim()) {
        ("", _) => "some of its outputs cannot run".to_owned(),
        (message, "") => message.to_owned(),
        (message, details) => format!("{message} ({details})"),
    };
    let said = echo::at_most(said, LONGEST_REFUSAL);
    match missing_model {
        Some(file) => JobError::new(ErrorKind::ModelMissing, failed_to_load(&file)).problems(problems),
        None => JobError::new(
            ErrorKind::InvalidWorkflow,
            format!("{INVALID_WORKFLOW}: ComfyUI refuses it: {said}"),
        )
        .problems(problems),
    }
}

/// Names files as the request knows them, and where a graph names an image that is not there, says which ones the request
/// brought: (name in the request, name in the graph).
pub(super) fn with_images(mut error: JobError, graph: &Graph, images: &[(String, String)]) -> JobError {
    for (requested, stored) in images {
        let texts = error.problems.iter_mut().map(|problem| &mut problem.message);
        for text in texts.chain([&mut error.message]) {
            if text.contains(stored.as_str()) {
                *text = text.replace(stored.as_str(), requested);
            }
        }
    }
    if error.kind != ErrorKind::InvalidWorkflow {
        return error;
    }
    let names = || images.iter().map(|(name, _)| name.as_str());
    for problem in &mut error.problems {
        let Some((node, input)) = problem
            .node_id
            .as_deref()
            .and_then(|id| graph.get(id))
            .zip(problem.input.as_deref())
        else {
            continue;
        };
        let wanted = node.inputs.get(input).and_then(Value::as_str);
        let Some(wanted) = wanted.filter(|_| is_loader(&node.class_type)) else {
            continue;
        };
        if images.iter().any(|(_, stored)| stored == wanted) {
            continue;
        }
        let advice = if images.is_empty() {
            // Our own check says it already.
            if problem.message.contains("`images`") || problem.message.contains("`/upload/image`") {
                continue;
            }
            "send it in `images`, under that name".to_owned()
        } else if let Some(closest) = closest_files(wanted, names(), 1).first() {
            format!(
                "the request brings `{}`: write that name in the graph",
                echo::cut(closest)
            )
        } else {
            let mut shown: Vec<String> = names()
                .take(NAMED_IMAGES)
                .map(|name| format!("`{}`", echo::cut(name)))
                .collect();
            if images.len() > NAMED_IMAGES {
                shown.push(format!("{} more", images.len() - NAMED_IMAGES));
            }
            format!("the request brings {}", shown.join(", "))
        };
        problem.message = format!("{}; {advice}", problem.message);
    }
    error
}

/// A node raised while the graph ran.
pub(super) fn raised(error: &ExecutionError, graph: &Graph) -> JobError {
    let said: String = error.exception_message.trim().chars().take(LONGEST_EXCEPTION).collect();
    let exception = echo::cut(&error.exception_type);
    let said = if said.is_empty() { exception.clone() } else { said };
    let place = format!("node {} ({})", echo::cut(&error.node_id), echo::cut(&error.node_type));
    let problem = Problem {
        node_id: Some(error.node_id.clone()),
        class_type: Some(error.node_type.clone()),
        message: format!("{exception}: {said}"),
        ..Problem::default()
    };
    // torch writes a table of its memory and advice of its own below; the problem has them.
    let first = echo::at_most(said.lines().next().unwrap_or_default().to_owned(), LONGEST_LINE);
    if let Some(of) = out_of_memory(error) {
        let kind = if asks_too_much(of, error, memory::total()) {
            ErrorKind::AsksTooMuch
        } else {
            ErrorKind::OutOfMemory
        };
        let memory = match of {
            Memory::Ram => "Out of memory (RAM)",
            Memory::Gpu => "CUDA out of memory",
        };
        let what = if first.is_empty() { &exception } else { &first };
        return JobError::new(kind, format!("{memory} in {place}: {what}"))
            .problems(vec![problem])
            .hint("Reduce batch size or image resolution.");
    }
    // Before anything that depends on the node: it surfaces in whichever comes next.
    if breaks_the_gpu(error) {
        return JobError::new(
            ErrorKind::GpuFailed,
            format!("The GPU failed in {place}: {exception}: {first}"),
        )
        .problems(vec![problem])
        .hint(
            "Until ComfyUI is restarted, which the worker does by itself unless it is attached \
             (COMFYUI_URL), everything on the GPU fails. If the same graph fails again, it is what brings that about.",
        );
    }
    // Python's words for ENOSPC: no fault of the graph.
    if said.contains("No space left on device") {
        return JobError::internal(format!("The disk is full: {place} raised {exception}: {first}"))
            .problems(vec![problem])
            .hint("Free some space where ComfyUI writes its output files, and send the job again.");
    }
    // A loader that raises so has found the file but cannot read it.
    if error.node_type.contains("Loader")
        && let Some(file) = graph
            .get(&error.node_id)
            .and_then(|node| node.inputs.values().find_map(model_file))
        && is_about_the_file(error, &file)
    {
        return JobError::new(ErrorKind::ModelMissing, format!("{}: {place} raised {exception}: {first}", failed_to_load(&file)))
            .problems(vec![problem])
            .hint("The file is there but cannot be read: fetch it again, and see that it is of the right kind for this loader.");
    }
    // A file of the request whose header is right and whose rest is not, or one of another kind than this loader's.
    if is_loader(&error.node_type)
        && let Some((image, stored)) = graph.get(&error.node_id).and_then(image_of_request)
    {
        let loads_images = error.node_type.starts_with("LoadImage");
        let what = if loads_images { "image" } else { "file" };
        let mut message = format!("the {what} `{image}` cannot be loaded: {place} raised {exception}");
        // Where it lies is no concern of the user's.
        if !said.contains(stored) {
            message = format!("{message}: {first}");
        }
        let hint = if loads_images {
            UNREADABLE
        } else {
            "The file is of no kind that this node reads, or is damaged."
        };
        return JobError::new(ErrorKind::NodeFailed, message).hint(hint).at(image);
    }
    let hint = if error.exception_type.contains("UnidentifiedImageError") {
        UNREADABLE
    } else {
        "Change the graph or its inputs; the worker's log has the traceback."
    };
    JobError::new(ErrorKind::NodeFailed, format!("{place} failed: {exception}: {first}"))
        .problems(vec![problem])
        .hint(hint)
}

/// Somebody interrupted the prompt in ComfyUI.
pub(super) fn interrupted() -> JobError {
    JobError::new(ErrorKind::Interrupted, "The job was interrupted in ComfyUI")
        .hint("Send it again if you want its result.")
}

/// The image of the request that a node names, by its name there and by that in `ComfyUI`'s folder.
fn image_of_request(node: &Node) -> Option<(&str, &str)> {
    let mut names = node.inputs.values().filter_map(Value::as_str);
    names.find_map(|stored| Some((name_in_request(stored)?, stored)))
}

fn file_named_by(graph: &Graph, node_id: &str, input: &str) -> Option<String> {
    model_file(graph.get(node_id)?.inputs.get(input)?)
}

fn failed_to_load(file: &str) -> String {
    format!("Failed to load model: {}", echo::cut(file))
}

/// The value as a model file's name, if it looks like one.
fn model_file(value: &Value) -> Option<String> {
    const ENDINGS: [&str; 8] = ["safetensors", "sft", "ckpt", "pt", "pth", "bin", "gguf", "onnx"];
    let name = value.as_str()?;
    let ending = name.rsplit_once('.')?.1.to_ascii_lowercase();
    ENDINGS.contains(&ending.as_str()).then(|| name.to_owned())
}

/// Where memory is too small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// The GPU's.
    Gpu,
    /// The machine's own.
    Ram,
}

/// The memory that ran out. torch's exception class is `OutOfMemoryError`; other back ends, and ComfyUI's own allocator,
/// only say so in words. `NumPy` has its own, and Python's says nothing.
fn out_of_memory(error: &ExecutionError) -> Option<Memory> {
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
/// `ram` is the whole memory of the machine or the container in bytes, where that is known.
fn asks_too_much(memory: Memory, error: &ExecutionError, ram: Option<u64>) -> bool {
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

/// Whether the process can use the GPU no more.
fn breaks_the_gpu(error: &ExecutionError) -> bool {
    let said = error.exception_message.to_ascii_lowercase();
    STICKY.iter().any(|words| said.contains(words)) && !NOT_STICKY.iter().any(|words| said.contains(words))
}

/// Whether a loader's exception is about its file: missing, damaged, or of another kind.
fn is_about_the_file(error: &ExecutionError, file: &str) -> bool {
    let said = error.exception_message.to_ascii_lowercase();
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file).to_ascii_lowercase();
    OF_A_FILES_CONTENT
        .iter()
        .any(|class| error.exception_type.ends_with(class))
        || OF_A_FILE.iter().any(|words| said.contains(words))
        || said.contains(&name)
}

#[cfg(test)]
#[path = "failure_tests.rs"]
mod tests;
