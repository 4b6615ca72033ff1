//! Which variables of the worker's environment ComfyUI gets: those that Python, its libraries, the GPU and the network
//! need. The others, the worker's keys and passwords among them, stay with the worker: each custom node could read them.

use std::ffi::OsStr;

/// Variables by their names, a few to a line. Those for proxies are written in small letters too.
const NAMES: [&str; 5] = [
    // The user's session.
    "PATH HOME USER LOGNAME SHELL PWD HOSTNAME TERM TZ LANG LANGUAGE TMPDIR TMP TEMP DISPLAY NO_COLOR COLUMNS \
     VIRTUAL_ENV CONDA_PREFIX",
    // Libraries, and programs that compile kernels.
    "LD_LIBRARY_PATH LD_PRELOAD CC CXX CPATH LIBRARY_PATH MAX_JOBS",
    // The network.
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE",
    // The Hub's libraries.
    "HF_HOME HF_ENDPOINT HF_DATASETS_CACHE HF_DATASETS_OFFLINE HUGGINGFACE_HUB_CACHE TRANSFORMERS_CACHE \
     TRANSFORMERS_OFFLINE DIFFUSERS_CACHE",
    // Custom nodes that look for ComfyUI, git and ffmpeg.
    "COMFYUI_PATH COMFYUI_MODEL_PATH COMFYUI_FOLDERS_BASE_PATH GIT_PYTHON_REFRESH GIT_PYTHON_GIT_EXECUTABLE \
     FFMPEG_PATH MPLBACKEND MPLCONFIGDIR",
];

/// Variables by how their names begin.
const BEGINNINGS: [&str; 3] = [
    "LC_ XDG_ PYTHON CUDA NVIDIA_ NCCL_ NVTE_ CUDNN_ CUBLAS TORCH PYTORCH TRITON_ XLA_ ROCM ROCR_ HIP_ HSA_ MIOPEN_ AMD_",
    "GPU_ ONEAPI_ SYCL_ ZE_ OMP_ KMP_ GOMP_ MKL_ OPENBLAS_ NUMEXPR_ NUMBA_ MALLOC_ TCMALLOC_ HF_HUB_ HF_XET_",
    "SAFETENSORS_ XFORMERS_ OPENCV_ QT_ IMAGEIO_",
];

/// Words in the names of what is secret, whatever the name begins with.
const SECRET: [&str; 1] = ["TOKEN SECRET PASSWORD PASSWD CREDENTIAL API_KEY ACCESS_KEY PRIVATE_KEY"];

/// Whether ComfyUI gets the variable of this name; `more` are those that the user names.
pub(in crate::comfy) fn passes(name: &OsStr, more: &[String]) -> bool {
    let Some(name) = name.to_str() else { return false };
    if more.iter().any(|pattern| is_named(name, pattern)) {
        return true;
    }
    let upper = name.to_ascii_uppercase();
    let is_small = upper.ends_with("_PROXY") && name == name.to_ascii_lowercase();
    if name != upper && !is_small {
        return false;
    }
    let words = |table: &'static [&str]| table.iter().flat_map(|line| line.split_whitespace());
    let is_secret = words(&SECRET).any(|word| upper.contains(word));
    let is_known =
        words(&NAMES).any(|known| known == upper) || words(&BEGINNINGS).any(|begin| upper.starts_with(begin));
    // This one only has a secret's name.
    upper == "TOKENIZERS_PARALLELISM" || (is_known && !is_secret)
}

fn is_named(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comfyui_needs_passes_and_no_secret_does() {
        let passes = |name: &str| passes(OsStr::new(name), &[]);
        for name in [
            "PATH",
            "LC_ALL",
            "LD_LIBRARY_PATH",
            "CUDA_VISIBLE_DEVICES",
            "NVIDIA_VISIBLE_DEVICES",
            "PYTORCH_CUDA_ALLOC_CONF",
            "PYTHONPATH",
            "HF_HOME",
            "HF_HUB_OFFLINE",
            "HTTPS_PROXY",
            "https_proxy",
            "TOKENIZERS_PARALLELISM",
        ] {
            assert!(passes(name), "{name}");
        }
        for name in [
            "API_KEY",
            "BUCKET_SECRET_ACCESS_KEY",
            "BUCKET_ACCESS_KEY_ID",
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "CIVITAI_TOKEN",
            "MODEL_TOKENS",
            "COMFY_ORG_API_KEY",
            "COMFYUI_URL",
            "PROMPT_ENHANCE_API_KEY",
            "SAFETY_CHECK_API_KEY",
            "WEBHOOK_SECRET",
            "RUNPOD_AI_API_KEY",
            "RUNPOD_WEBHOOK_GET_JOB",
            "AWS_SECRET_ACCESS_KEY",
            "PIP_INDEX_URL",
            "path",
        ] {
            assert!(!passes(name), "{name}");
        }
    }

    #[test]
    fn names_and_beginnings_of_the_users_pass() {
        let more = ["HF_TOKEN".to_owned(), "MY_NODE_*".to_owned()];
        let passes = |name: &str| passes(OsStr::new(name), &more);
        assert!(passes("HF_TOKEN") && passes("MY_NODE_URL") && passes("PATH"));
        assert!(!passes("HF_TOKEN_PATH") && !passes("MY_NODE") && !passes("API_KEY"));
    }
}
