//! Configuration from the environment, one file a section.
//!
//! A variable is declared once, as a [`Variable`](variable::Variable) beside the struct that it fills. A [`Reader`] that
//! is asked for its value reads it, and lists it for `check` and the documentation. All mistakes are collected and
//! reported at once, by variable name. A variable that is set but empty counts as not set, since that is how Docker and
//! RunPod pass what nobody filled in.

mod assets;
mod comfy;
mod delivery;
mod dialects;
mod endpoint;
mod engines;
mod fitness;
mod fleet;
mod http;
mod jobs;
mod model_file;
pub mod model_folder;
mod models;
mod node_pack;
mod nodes;
mod page;
mod paths;
mod retired;
mod runpod;
mod traces;
mod url_models;
mod urls;
mod variable;

use std::fmt;

pub use assets::AssetsConfig;
pub use comfy::{ComfyConfig, ComfySource, DemoChoice, GpuChoice, Performance, VersionChoice};
pub use delivery::{BucketConfig, DeliveryConfig, ImageFormat, ReturnImagesAs};
pub use dialects::{ChatModel, EditConfig, GradioConfig, SafetyConfig};
pub use endpoint::{BucketAccess, EndpointMistake, S3Endpoint};
pub use engines::{EnginesConfig, EnginesSource, Fallback};
pub use fitness::{CudaVersion, FitnessConfig};
pub use fleet::{BrokerAddress, BrokerLogin, NotABroker};
pub use http::{HttpConfig, Origins, listen_address};
pub use jobs::JobsConfig;
pub use model_file::{HUB, MODEL_EXTENSIONS, ModelFile, ModelFileError, Origin, is_model_file, parse_sha256};
pub use models::{HubConfig, ManifestSource, ModelsConfig};
pub use node_pack::{NodePack, PackOrigin, is_commit, is_registry_id, public_address};
pub use nodes::NodesConfig;
pub use page::PageConfig;
pub use paths::PathsConfig;
pub use runpod::{Platform, RequiredModel, RunpodConfig, WarmUpChoice, sdk_log_filter};
pub use traces::TracesConfig;
pub use url_models::{CIVITAI, HUGGING_FACE, UrlHosts, UrlModelsConfig};
pub use urls::{ImagesConfig, PrivateUrls, SigningKey, WebhookConfig};
pub use variable::{Mistake, Resolved, Secret};

use variable::Reader;

/// Everything the environment says, parsed.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our own HTTP server.
    pub http: HttpConfig,
    /// The ComfyUI we start or attach to.
    pub comfy: ComfyConfig,
    /// The engines elsewhere that run jobs in its place.
    pub engines: EnginesConfig,
    /// The broker of the fleet that gives it jobs beside its own API.
    pub fleet: Option<BrokerAddress>,
    /// What of it can be reached through us.
    pub page: PageConfig,
    /// Which custom nodes it gets.
    pub nodes: NodesConfig,
    /// How the Gradio dialect serves its clients.
    pub gradio: GradioConfig,
    /// How the Edit Plus API is served.
    pub edit: EditConfig,
    /// Where state lives.
    pub paths: PathsConfig,
    /// How jobs are run.
    pub jobs: JobsConfig,
    /// What may be uploaded.
    pub assets: AssetsConfig,
    /// How results go back.
    pub delivery: DeliveryConfig,
    /// How input images are fetched.
    pub images: ImagesConfig,
    /// How webhooks are signed and tried.
    pub webhook: WebhookConfig,
    /// Whether `b64_json` of OpenAI's Images API holds a data URI instead of plain base64.
    pub openai_b64_data_uri: bool,
    /// Where pictures are judged before they are handed out.
    pub safety: Option<SafetyConfig>,
    /// Where users' URLs may lead beside public addresses.
    pub private_urls: PrivateUrls,
    /// Which models are wanted, and how they are fetched.
    pub models: ModelsConfig,
    /// What the machine must have.
    pub fitness: FitnessConfig,
    /// Where we run: RunPod or elsewhere.
    pub platform: Platform,
    /// Where traces go.
    pub traces: TracesConfig,
    /// Every variable with the value in force, for `check`.
    pub resolved: Vec<Resolved>,
    /// What to tell of variables that are set and go with the next release.
    pub warnings: Vec<String>,
}

/// All that is wrong with the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// One entry a variable.
    pub mistakes: Vec<Mistake>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} mistake(s):", self.mistakes.len())?;
        for mistake in &self.mistakes {
            write!(f, "\n  {mistake}")?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads the process environment.
    pub fn from_env() -> Result<Self, ConfigError> {
        // `std::env::vars` panics on a variable that is no UTF-8; such a one is none of ours.
        Self::from_vars(
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// Reads the given variables, as tests do.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(vars);
        let config = Self::read(&mut reader);
        let Reader {
            resolved,
            mut warnings,
            mut mistakes,
            ..
        } = reader;
        let wants_nodes = config.nodes.names_any();
        if wants_nodes && matches!(config.comfy.source, ComfySource::Attached(_)) {
            warnings.push("CUSTOM_NODES and CUSTOM_NODES_MANIFEST do nothing together with COMFYUI_URL: custom nodes are installed by whoever runs that ComfyUI".to_owned());
        }
        if config.engines.source.is_some() && config.comfy.source != ComfySource::Managed {
            let message = "a front has no ComfyUI of its own; take out ENGINES, or COMFYUI_URL and COMFYUI_DIR";
            mistakes.push(Mistake {
                variable: "ENGINES",
                message: message.to_owned(),
            });
        }
        if config.engines.source.is_some() && config.fleet.is_some() {
            let message = "a front puts jobs into a fleet, by an engine of the kind fleet in ENGINES, and takes none; take out FLEET_URL";
            mistakes.push(Mistake {
                variable: "FLEET_URL",
                message: message.to_owned(),
            });
        }
        if !mistakes.is_empty() {
            return Err(ConfigError { mistakes });
        }
        let mut config = config;
        config.models.by_url.private = config.private_urls.clone();
        Ok(Self {
            resolved,
            warnings,
            ..config
        })
    }

    /// Asks for every variable, in the order in which the documentation lists them.
    fn read(reader: &mut Reader) -> Self {
        Self {
            http: http::read(reader.section("HTTP server")),
            comfy: comfy::read(reader.section("ComfyUI")),
            page: page::read(reader),
            nodes: nodes::read(reader.section("Custom nodes")),
            engines: engines::read(reader.section("Engines elsewhere")),
            fleet: fleet::read(reader),
            jobs: jobs::read(reader.section("Jobs")),
            assets: assets::read(reader),
            delivery: delivery::read(reader.section("Results")),
            images: urls::images(reader.section("Webhooks and URLs of users")),
            webhook: urls::webhook(reader),
            private_urls: reader.value(&urls::ALLOW_PRIVATE_URLS),
            openai_b64_data_uri: reader.section("APIs").value(&dialects::OPENAI_B64_DATA_URI),
            safety: dialects::safety(reader),
            gradio: dialects::gradio(reader),
            edit: dialects::edit(reader),
            paths: paths::read(reader.section("Folders")),
            models: models::read(reader.section("Models")),
            platform: runpod::read(reader.section("RunPod, and the log")),
            traces: traces::read(reader.section("Traces")),
            fitness: fitness::read(reader.section("What the machine must have")),
            resolved: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// Every variable that we read, but for those that go with the next release, as it is where none is set.
pub fn variables() -> Vec<Resolved> {
    let mut reader = Reader::default();
    Config::read(&mut reader);
    reader.resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let base = [("HOME", "/home/somebody")];
        Config::from_vars(
            base.iter()
                .chain(vars)
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
    }

    #[test]
    fn nothing_set_is_a_good_configuration() {
        let config = config(&[]).unwrap();
        assert_eq!(config.http.port, 8188);
        assert_eq!(config.http.host.to_string(), "127.0.0.1");
        assert_eq!(config.comfy.source, ComfySource::Managed);
        assert_eq!(config.delivery.return_images_as, ReturnImagesAs::Auto);
        assert_eq!(
            config.paths.data_dir,
            std::path::Path::new("/home/somebody/.local/share/qwen-image-worker")
        );
        assert!(!config.platform.on_runpod());
    }

    #[test]
    fn all_mistakes_are_reported_at_once_by_name() {
        let error = config(&[
            ("PORT", "99999"),
            ("RETURN_IMAGES_AS", "gif"),
            ("COMFY_LOG_LEVEL", "loud"),
            ("JOB_RETRIES", "x"),
        ])
        .unwrap_err();
        insta::assert_snapshot!(error, @r"
        the configuration has 4 mistake(s):
          PORT: `99999` is no whole number from 0 to 65535; for example PORT=8188
          COMFY_LOG_LEVEL: `loud` is none of DEBUG, INFO, WARNING, ERROR, CRITICAL; for example COMFY_LOG_LEVEL=INFO
          JOB_RETRIES: `x` is no whole number from 0 to 10; for example JOB_RETRIES=0
          RETURN_IMAGES_AS: `gif` is none of auto, metadata, base64, s3_url; for example RETURN_IMAGES_AS=base64
        ");
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        assert_eq!(config(&[("PORT", " ")]).unwrap().http.port, 8188);
    }

    #[test]
    fn a_directory_and_an_address_of_comfyui_exclude_each_other() {
        let error = config(&[("COMFYUI_DIR", "/comfyui"), ("COMFYUI_URL", "http://127.0.0.1:8000")]).unwrap_err();
        assert_eq!(error.mistakes.len(), 1);
        assert_eq!(error.mistakes[0].variable, "COMFYUI_URL");
    }

    #[test]
    fn packs_for_a_comfyui_of_somebody_else_are_warned_of() {
        let warnings = |vars: &[(&str, &str)]| config(vars).unwrap().warnings;
        let packs = ("CUSTOM_NODES", "comfyui-kjnodes@1.1.7");
        assert_eq!(warnings(&[packs]), [""; 0]);
        let warnings = warnings(&[packs, ("COMFYUI_URL", "http://127.0.0.1:8000")]);
        assert!(
            warnings.len() == 1 && warnings[0].contains("COMFYUI_URL"),
            "{warnings:?}"
        );
    }

    #[test]
    fn secrets_print_as_stars() {
        let config = config(&[("COMFY_ORG_API_KEY", "comfyui-4711")]).unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("4711"), "{shown}");
        assert_eq!(config.comfy.org_api_key.unwrap().reveal(), "comfyui-4711");
    }

    #[test]
    fn what_goes_with_the_next_release_still_works_and_is_warned_of() {
        let config = config(&[("STALL_TIMEOUT_S", "10"), ("RUNPOD_DEBUG_LEVEL", "WARN")]).unwrap();
        assert_eq!(config.jobs.stall_timeout, std::time::Duration::from_secs(10));
        assert_eq!(config.platform.log_filter, "WARN");
        insta::assert_snapshot!(config.warnings.join("\n"), @r"
        `STALL_TIMEOUT_S` goes with the next release: 120 seconds are fixed then; take it out
        `RUNPOD_DEBUG_LEVEL` goes with the next release: set RUNPOD_LOG_LEVEL instead
        ");
        let listed = |name: &str| config.resolved.iter().any(|resolved| resolved.name == name);
        assert!(!listed("STALL_TIMEOUT_S") && !listed("RUNPOD_DEBUG_LEVEL"));
        let error = self::config(&[("WEBHOOK_ATTEMPTS", "0")]).unwrap_err();
        assert_eq!(error.mistakes[0].variable, "WEBHOOK_ATTEMPTS");
    }

    #[test]
    fn a_name_in_capitals_holds() {
        let config = config(&[("PORT", "1"), ("port", "2"), ("queue_limit", "3")]).unwrap();
        assert_eq!((config.http.port, config.jobs.queue_limit), (1, 3));
    }

    #[test]
    fn every_default_parses() {
        let variables = variables();
        let mut names: Vec<_> = variables.iter().map(|variable| variable.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), variables.len(), "each variable is read exactly once");
        let is_whole = |variable: &Resolved| !variable.example.is_empty() && !variable.meaning.is_empty();
        assert!(variables.iter().all(is_whole));
        let set = variables
            .iter()
            .filter_map(|variable| Some((variable.name, variable.default?)));
        let set: Vec<_> = set.collect();
        assert_eq!(config(&set).unwrap().resolved.len(), variables.len());
    }

    /// The variables as Markdown, a table for each section, as the documentation has them.
    fn markdown() -> String {
        use fmt::Write as _;
        const HEAD: &str = "| variable | type | default | example | meaning |\n| --- | --- | --- | --- | --- |";
        let mut text = String::new();
        let mut section = "";
        for variable in variables() {
            if section != variable.section {
                section = variable.section;
                let _ = writeln!(text, "\n## {section}\n\n{HEAD}");
            }
            let default = variable.default.map(|text| format!("`{text}`"));
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | `{}` | {} |",
                variable.name,
                variable.kind,
                default.as_deref().unwrap_or("–"),
                variable.example,
                variable.meaning
            );
        }
        text
    }

    #[test]
    fn the_documentation_lists_every_variable() {
        let page = include_str!("../../docs/configuration.md");
        let tables = markdown();
        assert!(
            page.contains(&tables),
            "docs/configuration.md is out of date; its tables must read:\n{tables}"
        );
    }
}
