//! What ComfyUI says of a graph that failed, in words that tell the user where and what next. The sentences at the
//! begin are the API documentation's: `Invalid workflow JSON structure`, `Failed to load model: NAME`,
//! `CUDA out of memory`.

use serde_json::Value;

use crate::comfy::client::Rejection;
use crate::comfy::message::ExecutionError;
use crate::echo;
use crate::error::{ErrorKind, JobError, Problem};
use crate::workflow::{Graph, INVALID_WORKFLOW, Node, closest_files};

use super::exception::{self, Memory};
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

/// Where a graph names an image that is not there, says which ones the request brought: (name in the request, name in the
/// graph).
pub(super) fn with_images(mut error: JobError, graph: &Graph, images: &[(String, String)]) -> JobError {
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
        let Some(wanted) = wanted.filter(|_| node.class_type.starts_with("Load")) else {
            continue;
        };
        if images.iter().any(|(_, stored)| stored == wanted) {
            continue;
        }
        let advice = if images.is_empty() {
            // Our own check says it already.
            if problem.message.contains("`images`") {
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
        input: None,
        message: format!("{exception}: {said}"),
    };
    // torch writes a table of its memory and advice of its own below; the problem has them.
    let first = echo::at_most(said.lines().next().unwrap_or_default().to_owned(), LONGEST_LINE);
    if let Some(memory) = exception::out_of_memory(error) {
        let kind = if exception::asks_too_much(memory, error, exception::machine_memory()) {
            ErrorKind::AsksTooMuch
        } else {
            ErrorKind::OutOfMemory
        };
        let memory = match memory {
            Memory::Ram => "Out of memory (RAM)",
            Memory::Gpu => "CUDA out of memory",
        };
        let what = if first.is_empty() { &exception } else { &first };
        return JobError::new(kind, format!("{memory} in {place}: {what}"))
            .problems(vec![problem])
            .hint("Reduce batch size or image resolution.");
    }
    // Before anything that depends on the node: it surfaces in whichever comes next.
    if exception::breaks_the_gpu(error) {
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
        && exception::is_about_the_file(error, &file)
    {
        return JobError::new(ErrorKind::ModelMissing, format!("{}: {place} raised {exception}: {first}", failed_to_load(&file)))
            .problems(vec![problem])
            .hint("The file is there but cannot be read: fetch it again, and see that it is of the right kind for this loader.");
    }
    // An image of the request whose header is right and whose rest is not.
    if error.node_type.starts_with("Load")
        && let Some((image, stored)) = graph.get(&error.node_id).and_then(image_of_request)
    {
        let mut message = format!("the image `{image}` cannot be loaded: {place} raised {exception}");
        // Where it lies is no concern of the user's.
        if !said.contains(stored) {
            message = format!("{message}: {first}");
        }
        let hint = if error.node_type.starts_with("LoadImage") {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn graph() -> Graph {
        Graph::parse(&json!({
            "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "x.safetensors", "weight_dtype": "default"}},
            "2": {"class_type": "SaveImage", "inputs": {}}
        }))
        .unwrap()
    }

    #[test]
    fn a_refused_file_is_a_missing_model() {
        let rejection: Rejection = serde_json::from_value(json!({
            "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation", "details": "", "extra_info": {}},
            "node_errors": {"1": {"class_type": "UNETLoader", "dependent_outputs": ["2"], "errors": [{
                "type": "value_not_in_list", "message": "Value not in list", "details": "unet_name: 'x.safetensors' not in []",
                "extra_info": {"input_name": "unet_name"}}]}}
        }))
        .unwrap();
        let error = rejected(&rejection, &graph());
        assert_eq!(error.kind, ErrorKind::ModelMissing);
        assert!(
            error.full_text().starts_with("Failed to load model: x.safetensors"),
            "{}",
            error.full_text()
        );
        assert!(
            error
                .full_text()
                .contains("node 1 (UNETLoader), unet_name: Value not in list"),
            "{}",
            error.full_text()
        );
    }

    #[test]
    fn an_unknown_class_is_an_invalid_workflow() {
        let rejection: Rejection = serde_json::from_value(json!({
            "error": {"type": "missing_node_type", "message": "Node 'Nope' not found.", "details": "Node ID '#9'", "extra_info": {}},
            "node_errors": []
        }))
        .unwrap();
        let error = rejected(&rejection, &graph());
        assert_eq!(error.kind, ErrorKind::InvalidWorkflow);
        assert!(
            error.message.starts_with("Invalid workflow JSON structure"),
            "{}",
            error.message
        );
    }

    #[test]
    fn whoever_names_another_image_is_told_which_ones_there_are() {
        let graph = Graph::parse(&json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "pasted/image (3).png"}},
            "2": {"class_type": "LoadImage", "inputs": {"image": "nothing like it"}},
            "3": {"class_type": "LoadImage", "inputs": {"image": "job/image (3).png"}},
        }))
        .unwrap();
        let refused = |images: &[(String, String)]| {
            let problem = |id: &str| Problem {
                node_id: Some(id.to_owned()),
                input: Some("image".to_owned()),
                message: "no".to_owned(),
                ..Problem::default()
            };
            let error = JobError::new(ErrorKind::InvalidWorkflow, "x").problems(["1", "2", "3"].map(problem).into());
            with_images(error, &graph, images)
                .problems
                .into_iter()
                .map(|problem| problem.message)
                .collect::<Vec<_>>()
        };
        let image = |name: &str| (name.to_owned(), format!("job/{name}"));
        assert_eq!(
            refused(&[image("image (3).png"), image("b")]),
            [
                "no; the request brings `image (3).png`: write that name in the graph",
                "no; the request brings `image (3).png`, `b`",
                "no",
            ]
        );
        assert_eq!(refused(&[])[0], "no; send it in `images`, under that name");
    }

    #[test]
    fn nothing_that_comfyui_repeats_is_long() {
        let long = "x".repeat(1_000_000);
        let rejection: Rejection = serde_json::from_value(json!({
            "error": {"type": "prompt_outputs_failed_validation", "message": long, "details": long, "extra_info": {}},
            "node_errors": {"1": {"class_type": long, "dependent_outputs": [], "errors": [{
                "type": "custom_validation_failed", "message": "no", "details": long, "extra_info": {"input_name": long}}]}}
        }))
        .unwrap();
        let error = rejected(&rejection, &graph());
        assert!(error.full_text().len() < 3_000, "{}", error.full_text().len());
        let error = ExecutionError {
            node_id: long.clone(),
            node_type: long.clone(),
            exception_type: long.clone(),
            exception_message: long,
            ..ExecutionError::default()
        };
        let error = raised(&error, &graph());
        assert!(error.full_text().len() < 4_000, "{}", error.full_text().len());
    }

    #[test]
    fn an_image_that_cannot_be_loaded_is_named() {
        let graph = Graph::parse(&json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "qwen-image-worker/job-1/image_2"}},
            "2": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        }))
        .unwrap();
        let raised_by = |node: &str| {
            let error = ExecutionError {
                node_id: node.into(),
                node_type: "LoadImage".into(),
                exception_type: "PIL.UnidentifiedImageError".into(),
                exception_message: "cannot identify '/data/input/qwen-image-worker/job-1/image_2'".into(),
                ..ExecutionError::default()
            };
            raised(&error, &graph)
        };
        let error = raised_by("1");
        assert_eq!((error.kind.status(), error.field.as_deref()), (400, Some("image_2")));
        insta::assert_snapshot!(error.full_text(), @"the image `image_2` cannot be loaded: node 1 (LoadImage) raised PIL.UnidentifiedImageError. The file is no image that can be read; send PNG, JPEG or WebP.");
        assert_eq!(raised_by("2").field, None);
    }

    #[test]
    fn a_loader_that_fails_for_another_reason_lacks_no_model() {
        let of_loader = |class: &str, message: &str| {
            let error = ExecutionError {
                node_id: "1".into(),
                node_type: "UNETLoader".into(),
                exception_type: class.into(),
                exception_message: message.into(),
                ..ExecutionError::default()
            };
            raised(&error, &graph())
        };
        let gpu = of_loader("RuntimeError", "CUDA error: an illegal memory access was encountered");
        assert_eq!((gpu.kind, gpu.kind.status()), (ErrorKind::GpuFailed, 500));
        assert!(
            gpu.message.starts_with("The GPU failed in node 1 (UNETLoader)"),
            "{}",
            gpu.message
        );
        assert_eq!(of_loader("ValueError", "no such dtype").kind, ErrorKind::NodeFailed);
        let damaged = of_loader("safetensors_rust.SafetensorError", "Error while deserializing header");
        assert_eq!(damaged.kind, ErrorKind::ModelMissing);
    }

    #[test]
    fn out_of_memory_and_a_full_disk_are_recognised() {
        let error = |kind: &str, message: &str| ExecutionError {
            node_id: "2".into(),
            node_type: "KSampler".into(),
            exception_type: kind.into(),
            exception_message: message.into(),
            ..ExecutionError::default()
        };
        for oom in [
            error("torch.OutOfMemoryError", "Allocation on device"),
            error("RuntimeError", "CUDA error: out of memory\n"),
        ] {
            let error = raised(&oom, &graph());
            assert_eq!(error.kind, ErrorKind::OutOfMemory);
            assert!(error.message.starts_with("CUDA out of memory"), "{}", error.message);
        }
        let ram = error(
            "RuntimeError",
            "alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: 4398",
        );
        let ram = raised(&ram, &graph());
        assert_eq!(ram.kind, ErrorKind::OutOfMemory);
        assert!(
            ram.message.starts_with("Out of memory (RAM) in node 2"),
            "{}",
            ram.message
        );
        let asked = error(
            "RuntimeError",
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9000000000000000 bytes.",
        );
        let asked = raised(&asked, &graph());
        assert_eq!((asked.kind, asked.kind.status()), (ErrorKind::AsksTooMuch, 400));
        assert!(asked.full_text().contains("Reduce batch size"), "{}", asked.full_text());
        let full = raised(&error("OSError", "[Errno 28] No space left on device: '/x'"), &graph());
        assert_eq!(full.kind.status(), 500);
        let table =
            "Allocation on device 0 would exceed allowed memory. (out of memory)\nRequested               : 161.46 GiB";
        let of_torch = raised(&error("torch.OutOfMemoryError", table), &graph());
        insta::assert_snapshot!(of_torch.full_text(), @"
        CUDA out of memory in node 2 (KSampler): Allocation on device 0 would exceed allowed memory. (out of memory)
        - node 2 (KSampler): torch.OutOfMemoryError: Allocation on device 0 would exceed allowed memory. (out of memory)
        Requested               : 161.46 GiB
        Reduce batch size or image resolution.
        ");
        assert!(full.message.starts_with("The disk is full"), "{}", full.message);
        let other = raised(&error("RuntimeError", "boom\n"), &graph());
        assert_eq!((other.kind, other.kind.status()), (ErrorKind::NodeFailed, 400));
        assert!(
            other.message.contains("node 2 (KSampler) failed: RuntimeError: boom"),
            "{}",
            other.message
        );
    }
}
