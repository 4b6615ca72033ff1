//! The ComfyUI we start or attach to.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::variable::{Reader, Secret, Variable, boolean, milliseconds, parsed, path, secret, switch, whole};

/// Which ComfyUI is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComfySource {
    /// One that we install under the data folder.
    Managed,
    /// An installation somebody made: the folder with `main.py`.
    Existing(PathBuf),
    /// Running ones that we only speak to, at least one.
    Attached(Vec<Url>),
}

/// Which version of ComfyUI a managed installation has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionChoice {
    /// The one that this release of the worker was tested with.
    Pinned,
    /// A release (`0.46.0`, `v0.46.0`), a commit or a branch of the repository.
    Reference(String),
}

/// Which GPUs get a ComfyUI each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuChoice {
    /// Those that are there.
    Auto,
    /// None: ComfyUI runs on the CPU.
    None,
    /// These, each a number as `nvidia-smi` counts, or a UUID (`GPU-…`, `MIG-…`); at least one, no two the same.
    Listed(Vec<String>),
}

/// Whether the demo weights are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DemoChoice {
    /// Where there is no NVIDIA GPU and no model of the user's own.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What ComfyUI may trade for speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Performance {
    /// Nothing: pictures are those of ComfyUI as it comes.
    Exact,
    /// The last digits of pictures.
    Fast,
}

/// How ComfyUI is found, started and spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComfyConfig {
    /// Which one.
    pub source: ComfySource,
    /// Which version is installed, where we install it.
    pub version: VersionChoice,
    /// The git repository that a version other than the pinned one comes from. May hold a password: print it redacted.
    pub repository: String,
    /// Where torch, torchvision and torchaudio come from, if not from the usual index.
    pub torch_index: Option<Url>,
    /// The Python interpreter to use instead of the one found.
    pub python: Option<PathBuf>,
    /// Arguments for ComfyUI's command line, after ours.
    pub args: Vec<String>,
    /// Variables of the worker's environment that ComfyUI gets beside the usual ones.
    pub env: Vec<String>,
    /// Which GPUs get one.
    pub gpus: GpuChoice,
    /// What it may trade for speed.
    pub performance: Performance,
    /// ComfyUI's `--verbose`, as its command line spells it.
    pub log_level: String,
    /// Time between two looks whether ComfyUI answers yet.
    pub poll_interval: Duration,
    /// Looks before a start counts as failed; 0: as long as the process lives.
    pub poll_max_retries: u32,
    /// Attempts to connect the websocket again, after each loss.
    pub reconnect_attempts: u32,
    /// Time between two of them.
    pub reconnect_delay: Duration,
    /// Whether each websocket message is logged.
    pub websocket_trace: bool,
    /// The comfy.org key for API nodes, unless a request brings its own.
    pub org_api_key: Option<Secret>,
    /// Whether demo weights are used.
    pub demo: DemoChoice,
}

const COMFYUI_DIR: Variable<PathBuf> = path("COMFYUI_DIR", "folder")
    .example("/comfyui")
    .meaning("An installed ComfyUI to start: the folder with `main.py`. Not set: one is installed under `DATA_DIR`.");
const COMFYUI_VERSION: Variable<VersionChoice> = parsed("COMFYUI_VERSION", "release, commit, branch or pinned", version)
    .default_and_example("pinned", "v0.46.0")
    .meaning("Which ComfyUI is installed where `COMFYUI_DIR` names none. `pinned`: the version that this release was tested with. A branch or a release is looked up once; `qwen-image-worker setup --update` looks again.");
const COMFYUI_REPOSITORY: Variable<String> = parsed("COMFYUI_REPOSITORY", "git URL", repository)
    .hidden()
    .default_and_example(
        "https://github.com/Comfy-Org/ComfyUI",
        "https://git.example.com/ComfyUI.git",
    )
    .meaning("Where a version other than the pinned one comes from: a fork, a mirror, `file://`.");
// A mirror may want a password.
const TORCH_INDEX_URL: Variable<Url> = parsed("TORCH_INDEX_URL", "URL", super::variable::web_address)
    .hidden()
    .example("https://download.pytorch.org/whl/cpu")
    .meaning("The Python index for torch, torchvision and torchaudio: other builds, such as for the CPU (200 MB for 8 GB), ROCm, or a newer CUDA.");
const COMFYUI_URL: Variable<Vec<Url>> = parsed("COMFYUI_URL", "URL, or several with commas", addresses)
    .example("http://127.0.0.1:8000")
    .meaning("A running ComfyUI to use; nothing is started or restarted, files come through its `/view`, and jobs wait while it is away. Of several, each gets jobs when it is free.");
const GPUS: Variable<GpuChoice> = parsed("GPUS", "auto, none, or numbers and UUIDs with commas", gpus)
    .default_and_example("auto", "0,1")
    .meaning("Which NVIDIA GPUs get a ComfyUI each, all on one queue. `auto`: every one that `CUDA_VISIBLE_DEVICES` does not hide and that has at least three quarters of the memory of the largest. Numbers are those of `nvidia-smi`. `none`: ComfyUI runs on the CPU.");
const COMFYUI_PYTHON: Variable<PathBuf> = path("COMFYUI_PYTHON", "file").example("/opt/venv/bin/python").meaning(
    "The Python that runs ComfyUI. Not set: the environment beside `COMFYUI_DIR`, else the newest on the `PATH`.",
);
const COMFYUI_ARGS: Variable<Vec<String>> = parsed("COMFYUI_ARGS", "command line", arguments)
    .example("--lowvram --use-sage-attention")
    .meaning("Further arguments for ComfyUI, quoted as in a shell.");
const PERFORMANCE: Variable<Performance> = parsed("PERFORMANCE", "exact or fast", performance)
    .default_and_example("exact", "fast")
    .meaning("`fast`: ComfyUI gets the faster arithmetic that its version and the card have, where `COMFYUI_ARGS` does not choose; pictures may differ visibly, which was not measured, and each result says so. `exact`: no argument is added.");
const COMFYUI_ENV: Variable<Vec<String>> = parsed("COMFYUI_ENV", "names with commas", names)
    .example("HF_TOKEN,MY_NODE_*")
    .meaning("Further variables that ComfyUI gets from the worker's environment; `*` at the end stands for any end. Usually it gets those of the session, Python, its libraries, the GPU, proxies and the Hub's caches, and none of the worker's own keys.");
const COMFY_LOG_LEVEL: Variable<String> =
    parsed("COMFY_LOG_LEVEL", "DEBUG, INFO, WARNING, ERROR or CRITICAL", log_level)
        .default_and_example("DEBUG", "INFO")
        .meaning("ComfyUI's `--verbose`.");
const COMFY_API_AVAILABLE_INTERVAL_MS: Variable<Duration> = milliseconds("COMFY_API_AVAILABLE_INTERVAL_MS", 1..=60_000)
    .default_and_example("50", "200")
    .meaning("Time between two looks whether ComfyUI answers yet.");
const COMFY_API_AVAILABLE_MAX_RETRIES: Variable<u32> =
    whole("COMFY_API_AVAILABLE_MAX_RETRIES", "number", 0..=1_000_000)
        .default_and_example("0", "6000")
        .meaning("Looks before a start counts as failed; `0`: as long as the process lives.");
const WEBSOCKET_RECONNECT_ATTEMPTS: Variable<u32> = whole("WEBSOCKET_RECONNECT_ATTEMPTS", "number", 0..=1000)
    .default_and_example("5", "10")
    .meaning("Attempts to connect ComfyUI's websocket again after a loss. The result is found without it too.");
const WEBSOCKET_RECONNECT_DELAY_S: Variable<Duration> =
    parsed("WEBSOCKET_RECONNECT_DELAY_S", "seconds, 0 to 600", pause)
        .default_and_example("3", "1")
        .meaning("Time between two of these attempts.");
const WEBSOCKET_TRACE: Variable<bool> =
    switch("WEBSOCKET_TRACE", false).meaning("Log each websocket message (text frames whole, previews by size).");
const COMFY_ORG_API_KEY: Variable<Secret> = secret("COMFY_ORG_API_KEY")
    .example("comfyui-0123456789")
    .meaning("Sent with each workflow for comfy.org's API nodes; `input.comfy_org_api_key` overrides it.");
const DEMO_WEIGHTS: Variable<DemoChoice> = parsed("DEMO_WEIGHTS", "auto, true or false", demo)
    .default_and_example("auto", "false")
    .meaning("A small model that runs the real graphs on a CPU and draws plain shapes. `auto`: where there is no NVIDIA GPU and ComfyUI has no diffusion model; never on RunPod.");

fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is no URL ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("is no http or https URL".to_owned());
    }
    Ok(url)
}

fn addresses(text: &str) -> Result<Vec<Url>, String> {
    // An address may hold a comma itself.
    let mut parts: Vec<String> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let begins = ["http://", "https://"].iter().any(|scheme| part.starts_with(scheme));
        match parts.last_mut() {
            Some(last) if !begins && !part.is_empty() => *last = format!("{last},{part}"),
            _ if part.is_empty() => {}
            _ => parts.push(part.to_owned()),
        }
    }
    let urls = parts.iter().map(|part| address(part)).collect::<Result<Vec<_>, _>>()?;
    let same = |one: &Url, other: &Url| {
        let path = |url: &Url| url.path().trim_end_matches('/').to_owned();
        (one.host_str(), one.port_or_known_default(), path(one))
            == (other.host_str(), other.port_or_known_default(), path(other))
    };
    let is_twice = |at: usize| urls[..at].iter().any(|other| same(other, &urls[at]));
    match urls.len() {
        0 => Err("is no URL".to_owned()),
        count if (1..count).any(is_twice) => Err("names one ComfyUI twice".to_owned()),
        _ => Ok(urls),
    }
}

fn gpus(text: &str) -> Result<GpuChoice, String> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => return Ok(GpuChoice::Auto),
        "none" => return Ok(GpuChoice::None),
        _ => {}
    }
    let mut listed: Vec<String> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let is_number = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
        let is_uuid = ["GPU-", "MIG-"].iter().any(|kind| {
            let rest = part.strip_prefix(kind).unwrap_or_default();
            !rest.is_empty()
                && rest
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-/".contains(&byte))
        });
        if !is_number && !is_uuid {
            let part = crate::echo::cut(part);
            return Err(format!(
                "{part:?} is no number of a GPU and no UUID (`nvidia-smi -L` lists both); give numbers or UUIDs with commas, auto, or none"
            ));
        }
        let part = if is_number { part.trim_start_matches('0') } else { part };
        let part = if part.is_empty() { "0" } else { part };
        if listed.iter().any(|other| other == part) {
            return Err(format!("names GPU {part} twice"));
        }
        listed.push(part.to_owned());
    }
    if listed.is_empty() {
        return Err("names no GPU".to_owned());
    }
    Ok(GpuChoice::Listed(listed))
}

fn version(text: &str) -> Result<VersionChoice, String> {
    if text.eq_ignore_ascii_case("pinned") {
        return Ok(VersionChoice::Pinned);
    }
    let is_named = |letter: char| letter.is_ascii_alphanumeric() || "._-/+".contains(letter);
    if text.starts_with('-') || text.contains("..") || !text.chars().all(is_named) {
        return Err("is no name of a release, commit or branch".to_owned());
    }
    Ok(VersionChoice::Reference(text.to_owned()))
}

fn repository(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|error| format!("is no URL ({error})"))?;
    if !matches!(url.scheme(), "http" | "https" | "file" | "ssh" | "git") {
        return Err("is no http, https, git, ssh or file URL".to_owned());
    }
    Ok(text.to_owned())
}

fn arguments(text: &str) -> Result<Vec<String>, String> {
    shell_words::split(text).map_err(|error| format!("is no command line ({error})"))
}

fn pause(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("is no number of seconds from 0 to 600".to_owned()),
    }
}

fn log_level(text: &str) -> Result<String, String> {
    match text.to_ascii_uppercase().as_str() {
        level @ ("DEBUG" | "INFO" | "WARNING" | "ERROR" | "CRITICAL") => Ok(level.to_owned()),
        "WARN" => Ok("WARNING".to_owned()),
        _ => Err("is none of DEBUG, INFO, WARNING, ERROR, CRITICAL".to_owned()),
    }
}

fn performance(text: &str) -> Result<Performance, String> {
    match text.to_ascii_lowercase().as_str() {
        "exact" => Ok(Performance::Exact),
        "fast" => Ok(Performance::Fast),
        _ => Err("is none of exact, fast".to_owned()),
    }
}

/// Names of variables, each with `*` at its end or without.
fn names(text: &str) -> Result<Vec<String>, String> {
    let names = text.split([',', ' ']).map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let plain = name.strip_suffix('*').unwrap_or(name);
            let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
            if plain.is_empty() || !plain.chars().all(is_name) {
                let name = crate::echo::cut(name);
                return Err(format!(
                    "{name:?} is no name of a variable; `*` may only stand at its end"
                ));
            }
            Ok(name.to_owned())
        })
        .collect()
}

fn demo(text: &str) -> Result<DemoChoice, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(DemoChoice::Auto);
    }
    let on = boolean(text).map_err(|_| "is none of auto, true, false".to_owned())?;
    Ok(if on { DemoChoice::On } else { DemoChoice::Off })
}

pub(super) fn read(reader: &mut Reader) -> ComfyConfig {
    let source = match (reader.optional(&COMFYUI_DIR), reader.optional(&COMFYUI_URL)) {
        (None, None) => ComfySource::Managed,
        (Some(dir), None) => ComfySource::Existing(dir),
        (None, Some(urls)) => ComfySource::Attached(urls),
        (Some(_), Some(urls)) => {
            reader.mistake(
                &COMFYUI_URL,
                "is set together with COMFYUI_DIR; keep the one that you mean",
            );
            ComfySource::Attached(urls)
        }
    };
    if reader.chosen(&GPUS).is_some_and(|gpus| gpus != GpuChoice::Auto) {
        if matches!(source, ComfySource::Attached(_)) {
            reader.mistake(
                &GPUS,
                "is set together with COMFYUI_URL, whose ComfyUI runs already; keep the one that you mean",
            );
        }
        let mut arguments = reader.optional(&COMFYUI_ARGS).unwrap_or_default().into_iter();
        // They may be shortened, as far as they can be told from others.
        let chooses = |argument: &str| {
            let flag = argument.split('=').next().unwrap_or_default();
            flag.len() > "--cuda".len()
                && ["--cuda-device", "--default-device"]
                    .iter()
                    .any(|known| known.starts_with(flag))
        };
        if arguments.any(|argument| chooses(&argument)) {
            reader.mistake(
                &GPUS,
                "is set together with --cuda-device or --default-device in COMFYUI_ARGS; leave that out",
            );
        }
    }
    ComfyConfig {
        source,
        gpus: reader.value(&GPUS),
        version: reader.value(&COMFYUI_VERSION),
        repository: reader.value(&COMFYUI_REPOSITORY),
        torch_index: reader.optional(&TORCH_INDEX_URL),
        python: reader.optional(&COMFYUI_PYTHON),
        args: reader.optional(&COMFYUI_ARGS).unwrap_or_default(),
        performance: reader.value(&PERFORMANCE),
        env: reader.optional(&COMFYUI_ENV).unwrap_or_default(),
        log_level: reader.value(&COMFY_LOG_LEVEL),
        poll_interval: reader.value(&COMFY_API_AVAILABLE_INTERVAL_MS),
        poll_max_retries: reader.value(&COMFY_API_AVAILABLE_MAX_RETRIES),
        reconnect_attempts: reader.value(&WEBSOCKET_RECONNECT_ATTEMPTS),
        reconnect_delay: reader.value(&WEBSOCKET_RECONNECT_DELAY_S),
        websocket_trace: reader.value(&WEBSOCKET_TRACE),
        org_api_key: reader.optional(&COMFY_ORG_API_KEY),
        demo: reader.value(&DEMO_WEIGHTS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_numbers_and_uuids() {
        assert_eq!(gpus("Auto"), Ok(GpuChoice::Auto));
        assert_eq!(gpus("none"), Ok(GpuChoice::None));
        let listed = |words: &[&str]| Ok(GpuChoice::Listed(words.iter().map(|&word| word.to_owned()).collect()));
        assert_eq!(gpus("1, 00"), listed(&["1", "0"]));
        assert_eq!(gpus("GPU-5a3c,MIG-7b/1/0"), listed(&["GPU-5a3c", "MIG-7b/1/0"]));
        for wrong in ["", ",", "all", "-1", "0,0", "0,00", "GPU-", "0;1", "9999", "GPU-a b"] {
            assert!(gpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn several_comfyuis_are_different_ones() {
        assert_eq!(addresses("http://a:1, http://b:1,").unwrap().len(), 2);
        assert_eq!(addresses("http://a/x,y,http://b").unwrap()[0].path(), "/x,y");
        for wrong in ["", ",", "a:1", "http://a:1,http://a:1/", "http://a,http://u:p@a:80"] {
            assert!(addresses(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_of_variables_are_read() {
        assert_eq!(names("HF_TOKEN, MY_*").unwrap(), ["HF_TOKEN", "MY_*"]);
        assert_eq!(names("").unwrap(), [""; 0]);
        for wrong in ["*", "A=B", "A*B", "A;B"] {
            assert!(names(wrong).is_err(), "{wrong}");
        }
    }
}
