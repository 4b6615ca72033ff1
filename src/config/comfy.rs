//! The ComfyUI we start or attach to.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::secret::Secret;
use super::variable::{Reader, Variable, boolean, integer, text};

/// Which ComfyUI is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComfySource {
    /// One that we install under the data folder.
    Managed,
    /// An installation somebody made: the folder with `main.py`.
    Existing(PathBuf),
    /// A running one that we only speak to.
    Attached(Url),
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

/// ComfyUI's `--verbose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// The usual.
    Info,
    /// Warnings and errors.
    Warning,
    /// Errors.
    Error,
    /// Only what ends the process.
    Critical,
}

impl LogLevel {
    /// As ComfyUI's command line spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Critical => "CRITICAL",
        }
    }
}

/// How ComfyUI is found, started and spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComfyConfig {
    /// Which one.
    pub source: ComfySource,
    /// The Python interpreter to use instead of the one found.
    pub python: Option<PathBuf>,
    /// Arguments for ComfyUI's command line, after ours.
    pub args: Vec<String>,
    /// Variables of the worker's environment that ComfyUI gets beside the usual ones.
    pub env: Vec<String>,
    /// How much ComfyUI logs.
    pub log_level: LogLevel,
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

const COMFYUI_DIR: Variable = Variable {
    name: "COMFYUI_DIR",
    kind: "folder",
    default: None,
    example: "/comfyui",
    meaning: "An installed ComfyUI to start: the folder with `main.py`. Not set: one is installed under `DATA_DIR`.",
    secret: false,
};
const COMFYUI_URL: Variable = Variable {
    name: "COMFYUI_URL",
    kind: "URL",
    default: None,
    example: "http://127.0.0.1:8000",
    meaning: "A running ComfyUI to use; nothing is started or restarted, files come through its `/view`, and jobs wait while it is away.",
    secret: false,
};
const COMFYUI_PYTHON: Variable = Variable {
    name: "COMFYUI_PYTHON",
    kind: "file",
    default: None,
    example: "/opt/venv/bin/python",
    meaning: "The Python that runs ComfyUI. Not set: the environment beside `COMFYUI_DIR`, else the newest on the `PATH`.",
    secret: false,
};
const COMFYUI_ARGS: Variable = Variable {
    name: "COMFYUI_ARGS",
    kind: "command line",
    default: None,
    example: "--lowvram --use-sage-attention",
    meaning: "Further arguments for ComfyUI, quoted as in a shell.",
    secret: false,
};
const COMFYUI_ENV: Variable = Variable {
    name: "COMFYUI_ENV",
    kind: "names with commas",
    default: None,
    example: "HF_TOKEN,MY_NODE_*",
    meaning: "Further variables that ComfyUI gets from the worker's environment; `*` at the end stands for any end. Usually it gets those of the session, Python, its libraries, the GPU, proxies and the Hub's caches, and none of the worker's own keys.",
    secret: false,
};
const COMFY_LOG_LEVEL: Variable = Variable {
    name: "COMFY_LOG_LEVEL",
    kind: "DEBUG, INFO, WARNING, ERROR or CRITICAL",
    default: Some("DEBUG"),
    example: "INFO",
    meaning: "ComfyUI's `--verbose`.",
    secret: false,
};
const COMFY_API_AVAILABLE_INTERVAL_MS: Variable = Variable {
    name: "COMFY_API_AVAILABLE_INTERVAL_MS",
    kind: "milliseconds, 1 to 60000",
    default: Some("50"),
    example: "200",
    meaning: "Time between two looks whether ComfyUI answers yet.",
    secret: false,
};
const COMFY_API_AVAILABLE_MAX_RETRIES: Variable = Variable {
    name: "COMFY_API_AVAILABLE_MAX_RETRIES",
    kind: "number, 0 to 1000000",
    default: Some("0"),
    example: "6000",
    meaning: "Looks before a start counts as failed; `0`: as long as the process lives.",
    secret: false,
};
const WEBSOCKET_RECONNECT_ATTEMPTS: Variable = Variable {
    name: "WEBSOCKET_RECONNECT_ATTEMPTS",
    kind: "number, 0 to 1000",
    default: Some("5"),
    example: "10",
    meaning: "Attempts to connect ComfyUI's websocket again after a loss. The result is found without it too.",
    secret: false,
};
const WEBSOCKET_RECONNECT_DELAY_S: Variable = Variable {
    name: "WEBSOCKET_RECONNECT_DELAY_S",
    kind: "seconds, 0 to 600",
    default: Some("3"),
    example: "1",
    meaning: "Time between two of these attempts.",
    secret: false,
};
const WEBSOCKET_TRACE: Variable = Variable {
    name: "WEBSOCKET_TRACE",
    kind: "true or false",
    default: Some("false"),
    example: "true",
    meaning: "Log each websocket message (text frames whole, previews by size).",
    secret: false,
};
const COMFY_ORG_API_KEY: Variable = Variable {
    name: "COMFY_ORG_API_KEY",
    kind: "secret",
    default: None,
    example: "comfyui-0123456789",
    meaning: "Sent with each workflow for comfy.org's API nodes; `input.comfy_org_api_key` overrides it.",
    secret: true,
};
const DEMO_WEIGHTS: Variable = Variable {
    name: "DEMO_WEIGHTS",
    kind: "auto, true or false",
    default: Some("auto"),
    example: "false",
    meaning: "Random weights of 25 MB that run the real graphs on a CPU; the pictures are noise. `auto`: where there is no NVIDIA GPU and ComfyUI has no diffusion model; never on RunPod.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[
    &COMFYUI_DIR,
    &COMFYUI_URL,
    &COMFYUI_PYTHON,
    &COMFYUI_ARGS,
    &COMFYUI_ENV,
    &COMFY_LOG_LEVEL,
    &COMFY_API_AVAILABLE_INTERVAL_MS,
    &COMFY_API_AVAILABLE_MAX_RETRIES,
    &WEBSOCKET_RECONNECT_ATTEMPTS,
    &WEBSOCKET_RECONNECT_DELAY_S,
    &WEBSOCKET_TRACE,
    &COMFY_ORG_API_KEY,
    &DEMO_WEIGHTS,
];

#[derive(Deserialize, Default)]
struct Raw {
    comfyui_dir: Option<String>,
    comfyui_url: Option<String>,
    comfyui_python: Option<String>,
    comfyui_args: Option<String>,
    comfyui_env: Option<String>,
    comfy_log_level: Option<String>,
    comfy_api_available_interval_ms: Option<String>,
    comfy_api_available_max_retries: Option<String>,
    websocket_reconnect_attempts: Option<String>,
    websocket_reconnect_delay_s: Option<String>,
    websocket_trace: Option<String>,
    comfy_org_api_key: Option<String>,
    demo_weights: Option<String>,
}

fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is no URL ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("is no http or https URL".to_owned());
    }
    Ok(url)
}

fn log_level(text: &str) -> Result<LogLevel, String> {
    match text.to_ascii_uppercase().as_str() {
        "DEBUG" => Ok(LogLevel::Debug),
        "INFO" => Ok(LogLevel::Info),
        "WARNING" | "WARN" => Ok(LogLevel::Warning),
        "ERROR" => Ok(LogLevel::Error),
        "CRITICAL" => Ok(LogLevel::Critical),
        _ => Err("is none of DEBUG, INFO, WARNING, ERROR, CRITICAL".to_owned()),
    }
}

/// Names of variables, each with `*` at its end or without.
fn names(text: &str) -> Result<Vec<String>, String> {
    let names = text.split([',', ' ']).map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let plain = name.strip_suffix('*').unwrap_or(name);
            let is_name = plain
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
            if plain.is_empty() || !is_name {
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

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<ComfyConfig> {
    let raw: Raw = reader.raw(vars);
    let path = |text: &str| Ok(PathBuf::from(text));
    let dir = reader.optional(&COMFYUI_DIR, raw.comfyui_dir, path);
    let url = reader.optional(&COMFYUI_URL, raw.comfyui_url, address);
    let python = reader.optional(&COMFYUI_PYTHON, raw.comfyui_python, path);
    let args = reader.optional(&COMFYUI_ARGS, raw.comfyui_args, |text| {
        shell_words::split(text).map_err(|error| format!("is no command line ({error})"))
    });
    let env = reader.optional(&COMFYUI_ENV, raw.comfyui_env, names);
    let log_level = reader.value(&COMFY_LOG_LEVEL, raw.comfy_log_level, log_level);
    let poll = reader.value(
        &COMFY_API_AVAILABLE_INTERVAL_MS,
        raw.comfy_api_available_interval_ms,
        integer(1..=60_000_u64),
    );
    let poll_max_retries = reader.value(
        &COMFY_API_AVAILABLE_MAX_RETRIES,
        raw.comfy_api_available_max_retries,
        integer(0..=1_000_000_u32),
    );
    let attempts = reader.value(
        &WEBSOCKET_RECONNECT_ATTEMPTS,
        raw.websocket_reconnect_attempts,
        integer(0..=1000_u32),
    );
    let delay = reader.value(
        &WEBSOCKET_RECONNECT_DELAY_S,
        raw.websocket_reconnect_delay_s,
        |text| match text.parse::<f64>() {
            Ok(seconds) if (0.0..=600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
            _ => Err("is no number of seconds from 0 to 600".to_owned()),
        },
    );
    let websocket_trace = reader.value(&WEBSOCKET_TRACE, raw.websocket_trace, boolean);
    let org_api_key = reader.optional(&COMFY_ORG_API_KEY, raw.comfy_org_api_key, text);
    let demo = reader.value(&DEMO_WEIGHTS, raw.demo_weights, demo);
    let source = match (dir?, url?) {
        (None, None) => ComfySource::Managed,
        (Some(dir), None) => ComfySource::Existing(dir),
        (None, Some(url)) => ComfySource::Attached(url),
        (Some(_), Some(_)) => {
            reader.mistake(
                &COMFYUI_URL,
                "is set together with COMFYUI_DIR; keep the one that you mean",
            );
            return None;
        }
    };
    Some(ComfyConfig {
        source,
        python: python?,
        args: args?.unwrap_or_default(),
        env: env?.unwrap_or_default(),
        log_level: log_level?,
        poll_interval: Duration::from_millis(poll?),
        poll_max_retries: poll_max_retries?,
        reconnect_attempts: attempts?,
        reconnect_delay: delay?,
        websocket_trace: websocket_trace?,
        org_api_key: org_api_key?.map(Secret::new),
        demo: demo?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_variables_are_read() {
        assert_eq!(names("HF_TOKEN, MY_*").unwrap(), ["HF_TOKEN", "MY_*"]);
        assert_eq!(names("").unwrap(), [""; 0]);
        for wrong in ["*", "A=B", "A*B", "A;B"] {
            assert!(names(wrong).is_err(), "{wrong}");
        }
    }
}
