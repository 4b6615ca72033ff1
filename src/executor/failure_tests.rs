//! What is made of refusals and exceptions.

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

fn exception(class: &str, message: &str) -> ExecutionError {
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
        assert_eq!(out_of_memory(&exception(class, message)), memory, "{message}");
    }
}

#[test]
fn what_cannot_fit_is_the_graphs_fault() {
    const GIB: u64 = 1 << 30;
    let of_torch = |bytes: u64| {
        let said =
            format!("DefaultCPUAllocator: can't allocate memory: you tried to allocate {bytes} bytes. Error code 12");
        exception("RuntimeError", &said)
    };
    let ram = |error: &ExecutionError| asks_too_much(Memory::Ram, error, Some(64 * GIB));
    assert!(ram(&of_torch(3072 * GIB)) && !ram(&of_torch(10 * GIB)));
    assert!(ram(&exception("x", "Unable to allocate 3.00 TiB for an array")));
    assert!(!ram(&exception("MemoryError", "")));
    let gpu = |asked: &str| {
        let said =
            format!("CUDA out of memory. Tried to allocate {asked}. GPU 0 has a total capacity of 23.99 GiB of which");
        asks_too_much(Memory::Gpu, &exception("torch.OutOfMemoryError", &said), Some(64 * GIB))
    };
    assert!(gpu("161.46 GiB") && !gpu("20.00 GiB") && !gpu("512.00 MiB"));
    let silent = exception("torch.OutOfMemoryError", "Tried to allocate 161.46 GiB");
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
        assert!(breaks_the_gpu(&exception("RuntimeError", message)), "{message}");
    }
    for message in [
        "CUDA error: no kernel image is available for execution on the device",
        "CUDA error: invalid configuration argument",
        "mat1 and mat2 shapes cannot be multiplied",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
    ] {
        assert!(!breaks_the_gpu(&exception("RuntimeError", message)), "{message}");
    }
}

#[test]
fn only_some_exceptions_of_loaders_are_about_their_file() {
    let about = |class: &str, message: &str| is_about_the_file(&exception(class, message), "qwen/x.safetensors");
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
