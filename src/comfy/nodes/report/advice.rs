//! What can be done about a pack that does not load, by what Python says.

use super::gather::NOT_IMPORTED;

/// The next step, as a sentence. `asked`: the worker installs what the pack needs.
pub(super) fn next_step(error: &str, asked: bool) -> String {
    if let Some(module) = between(error, "No module named '", "'") {
        let package = module.split('.').next().unwrap_or(module);
        return if OF_COMFYUI.contains(&package) {
            format!(
                "`{module}` is ComfyUI's own: take a version of the pack for this ComfyUI, or another COMFYUI_VERSION."
            )
        } else if asked {
            format!(
                "The pack's requirements do not name `{package}`: add the package that brings it to `packages` in the manifest (CUSTOM_NODES_MANIFEST)."
            )
        } else {
            format!(
                "`{package}` is not in ComfyUI's Python: name the pack in CUSTOM_NODES, which installs its requirements, or add the package to `packages` in the manifest (CUSTOM_NODES_MANIFEST)."
            )
        };
    }
    if let Some(library) = missing_library(error) {
        let package = LIBRARIES.iter().find(|(name, _)| library.starts_with(name));
        let package = package.map_or_else(String::new, |(_, package)| format!(" (Debian and Ubuntu: `{package}`)"));
        return format!("The system library {library} is missing: add its package to the image{package}.");
    }
    if let Some(module) = between(error, "cannot import name '", "").and_then(|rest| between(rest, " from '", "'")) {
        let package = module.split('.').next().unwrap_or(module);
        return if OF_COMFYUI.contains(&package) {
            "The pack was written for another ComfyUI: take another version of the pack, or another COMFYUI_VERSION."
                .to_owned()
        } else {
            format!(
                "`{package}` is installed in a version that the pack does not know: take another version of the pack, or name the one it needs in `packages` of the manifest (CUSTOM_NODES_MANIFEST)."
            )
        };
    }
    let says = |words: &[&str]| words.iter().any(|word| error.contains(word));
    if says(&[NOT_IMPORTED]) {
        return "See that COMFYUI_ARGS has neither --disable-all-custom-nodes nor a --whitelist-custom-nodes without it."
            .to_owned();
    }
    if says(&["ComfyUI was killed by the kernel"]) {
        return "Its import needs more memory than there is: give the container or the machine more, or take it out."
            .to_owned();
    }
    if says(&["ComfyUI was killed", "ComfyUI ended"]) {
        return "It takes ComfyUI down with it: another version of the pack may not, or a package that it needs is built for another machine.".to_owned();
    }
    if says(&["__init__.py'"]) && says(&["No such file"]) {
        return "Its folder holds no __init__.py: is the pack one folder deeper, or is it not all there?".to_owned();
    }
    if says(&["NODE_CLASS_MAPPINGS"]) {
        return "Is it a pack of nodes, and is the pack itself one folder deeper?".to_owned();
    }
    if says(&[
        "numpy.dtype size changed",
        "compiled using NumPy",
        "_ARRAY_API not found",
    ]) {
        return "A package that it needs was built for another numpy: name a newer version of that package in `packages` of the manifest (CUSTOM_NODES_MANIFEST).".to_owned();
    }
    if says(&[
        "invalid syntax",
        "SyntaxError",
        "requires a different Python",
        "Requires-Python",
    ]) {
        return "It may want another Python than ComfyUI's (COMFYUI_PYTHON), or its files are damaged: take another version of the pack.".to_owned();
    }
    if says(&["Found no NVIDIA driver", "not compiled with CUDA", "CUDA"]) {
        return "It wants a GPU, or another build of torch than this machine has (TORCH_INDEX_URL).".to_owned();
    }
    if says(&["SystemExit", "sys.exit"]) {
        return "It ends Python when something does not suit it; its lines in ComfyUI's log say what. The other packs go on without it.".to_owned();
    }
    "ComfyUI's log has the whole of it; another version of the pack may do.".to_owned()
}

/// The modules at the top of ComfyUI's own folder that packs import.
const OF_COMFYUI: &[&str] = &[
    "api_server",
    "app",
    "comfy",
    "comfy_api",
    "comfy_api_nodes",
    "comfy_config",
    "comfy_execution",
    "comfy_extras",
    "cuda_malloc",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
    "utils",
];

/// System libraries that slim images lack and packs want, with Debian's packages.
const LIBRARIES: &[(&str, &str)] = &[
    ("libGL.so", "libgl1"),
    ("libEGL.so", "libegl1"),
    ("libglib-2", "libglib2.0-0"),
    ("libgthread-2", "libglib2.0-0"),
    ("libgomp.so", "libgomp1"),
    ("libSM.so", "libsm6"),
    ("libXext.so", "libxext6"),
    ("libXrender.so", "libxrender1"),
    ("libsndfile.so", "libsndfile1"),
    ("libstdc++.so", "libstdc++6"),
];

/// `libGL.so.1` of `libGL.so.1: cannot open shared object file: …`
fn missing_library(error: &str) -> Option<&str> {
    let before = error.split(": cannot open shared object file").next()?;
    let name = before.rsplit([' ', '\'', '"']).next()?;
    (before.len() < error.len() && name.contains(".so")).then_some(name)
}

/// What stands between two texts; to the end, where `after` is empty.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    if after.is_empty() {
        return Some(rest);
    }
    rest.split_once(after).map(|(found, _)| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_says_has_a_next_step() {
        for (error, asked, words) in [
            ("No module named 'gguf'", true, "`gguf`: add the package"),
            ("No module named 'skimage.io'", false, "name the pack in CUSTOM_NODES"),
            ("No module named 'comfy.ldm.new'", true, "COMFYUI_VERSION"),
            (
                "libGL.so.1: cannot open shared object file: No such file or directory",
                true,
                "libGL.so.1 is missing: add its package to the image (Debian and Ubuntu: `libgl1`)",
            ),
            (
                "its prestartup script failed: libodd.so: cannot open shared object file: No such file or directory",
                true,
                "libodd.so is missing: add its package to the image.",
            ),
            (
                "cannot import name 'x' from 'transformers.models' (/venv/a.py)",
                true,
                "`transformers` is installed in a version",
            ),
            (
                "cannot import name 'io' from 'comfy_api.latest' (/ComfyUI/comfy_api/latest/__init__.py)",
                true,
                "another ComfyUI",
            ),
            (
                "[Errno 2] No such file or directory: '/base/custom_nodes/empty_folder/__init__.py'",
                false,
                "one folder deeper",
            ),
            ("invalid syntax (__init__.py, line 1)", true, "another Python"),
            (
                "numpy.dtype size changed, may indicate binary incompatibility",
                true,
                "another numpy",
            ),
            ("SystemExit: 3", true, "ends Python"),
            (
                "when it was last imported, ComfyUI was killed by SIGSEGV; it is left out until the worker is started again",
                true,
                "takes ComfyUI down",
            ),
            (
                "when it was last imported, ComfyUI was killed by the kernel, since the container's memory limit of 6.0 GiB was reached; it is left out until the worker is started again",
                true,
                "more memory",
            ),
            ("no licence for this", true, "ComfyUI's log"),
        ] {
            let step = next_step(error, asked);
            assert!(step.contains(words), "{error}: {step}");
        }
    }
}
