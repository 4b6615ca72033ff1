//! Configuration from the environment, one file a section.
//!
//! `envy` fills structs of raw strings; `Reader` parses them. All mistakes are collected and
//! reported at once, by variable name. A variable that is set but empty counts as not set, since that is how Docker
//! and RunPod pass what nobody filled in.

mod bucket;
mod comfy;
mod delivery;
mod edit;
mod endpoint;
mod fitness;
mod gradio;
mod guard;
mod http;
mod hub;
mod images;
mod jobs;
mod model_file;
pub mod model_folder;
mod models;
mod openai;
mod paths;
mod platform;
mod runpod;
mod safety;
mod secret;
mod variable;
mod webhook;

use std::fmt;

pub use bucket::BucketConfig;
pub use comfy::{ComfyConfig, ComfySource, DemoChoice, LogLevel};
pub use delivery::{DeliveryConfig, ImageFormat, ReturnImagesAs};
pub use edit::EditConfig;
pub use endpoint::{BucketAccess, EndpointMistake, S3Endpoint};
pub use fitness::{CudaVersion, FitnessConfig};
pub use gradio::{ChatModel, GradioConfig};
pub use guard::{GuardConfig, PrivateUrls};
pub use http::{HttpConfig, Origins, listen_address};
pub use hub::HubConfig;
pub use images::ImagesConfig;
pub use jobs::JobsConfig;
pub use model_file::{HUB, MODEL_EXTENSIONS, ModelFile, ModelFileError, Origin, is_model_file, parse_sha256};
pub use models::{ManifestSource, ModelsConfig};
pub use openai::OpenAiConfig;
pub use paths::PathsConfig;
pub use platform::{Platform, sdk_log_filter};
pub use runpod::{RequiredModel, RunpodConfig};
pub use safety::SafetyConfig;
pub use secret::Secret;
pub use variable::{Mistake, Resolved, Variable};
pub use webhook::{SigningKey, WebhookConfig};

use variable::Reader;

/// Everything the environment says, parsed.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our own HTTP server.
    pub http: HttpConfig,
    /// The ComfyUI we start or attach to.
    pub comfy: ComfyConfig,
    /// How the Gradio dialect serves its clients.
    pub gradio: GradioConfig,
    /// How the Edit Plus API is served.
    pub edit: EditConfig,
    /// Where state lives.
    pub paths: PathsConfig,
    /// How jobs are run.
    pub jobs: JobsConfig,
    /// How results go back.
    pub delivery: DeliveryConfig,
    /// How input images are fetched.
    pub images: ImagesConfig,
    /// How webhooks are signed and tried.
    pub webhook: WebhookConfig,
    /// How OpenAI's Images API is served.
    pub openai: OpenAiConfig,
    /// Where pictures are judged before they are handed out.
    pub safety: Option<SafetyConfig>,
    /// Where users' URLs may lead.
    pub guard: GuardConfig,
    /// Which models are wanted, and how they are fetched.
    pub models: ModelsConfig,
    /// What the machine must have.
    pub fitness: FitnessConfig,
    /// Where we run: RunPod or elsewhere.
    pub platform: Platform,
    /// Every variable with the value in force, for `check`.
    pub resolved: Vec<Resolved>,
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
        let vars: Vec<(String, String)> = vars
            .into_iter()
            .map(|(name, value)| (name, value.trim().to_owned()))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let mut reader = Reader::default();
        let platform = platform::read(&mut reader, &vars);
        let http = http::read(&mut reader, &vars);
        let comfy = comfy::read(&mut reader, &vars);
        let jobs = jobs::read(&mut reader, &vars);
        let delivery = delivery::read(&mut reader, &vars);
        let images = images::read(&mut reader, &vars);
        let webhook = webhook::read(&mut reader, &vars);
        let openai = openai::read(&mut reader, &vars);
        let safety = safety::read(&mut reader, &vars);
        let guard = guard::read(&mut reader, &vars);
        let gradio = gradio::read(&mut reader, &vars);
        let edit = edit::read(&mut reader, &vars);
        let paths = paths::read(&mut reader, &vars);
        let models = models::read(&mut reader, &vars);
        let fitness = fitness::read(&mut reader, &vars);
        let (resolved, mistakes) = reader.finish();
        match (
            platform, http, comfy, jobs, delivery, images, webhook, openai, safety, guard, gradio, edit, paths, models,
            fitness,
        ) {
            (
                Some(platform),
                Some(http),
                Some(comfy),
                Some(jobs),
                Some(delivery),
                Some(images),
                Some(webhook),
                Some(openai),
                Some(safety),
                Some(guard),
                Some(gradio),
                Some(edit),
                Some(paths),
                Some(models),
                Some(fitness),
            ) if mistakes.is_empty() => Ok(Self {
                http,
                comfy,
                gradio,
                edit,
                paths,
                jobs,
                delivery,
                images,
                webhook,
                openai,
                safety,
                guard,
                models,
                fitness,
                platform,
                resolved,
            }),
            _ => Err(ConfigError { mistakes }),
        }
    }
}

/// Every variable we read, section by section: what the documentation lists.
pub fn variables() -> Vec<&'static Variable> {
    [
        http::VARIABLES,
        comfy::VARIABLES,
        jobs::VARIABLES,
        delivery::VARIABLES,
        bucket::VARIABLES,
        images::VARIABLES,
        webhook::VARIABLES,
        openai::VARIABLES,
        safety::VARIABLES,
        guard::VARIABLES,
        gradio::VARIABLES,
        edit::VARIABLES,
        paths::VARIABLES,
        models::VARIABLES,
        hub::VARIABLES,
        platform::VARIABLES,
        runpod::VARIABLES,
        fitness::VARIABLES,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect()
}

/// The variables as a Markdown table, as `docs/configuration.md` holds it.
pub fn variables_markdown() -> String {
    use fmt::Write as _;
    let mut text = String::from("| variable | type | default | example | meaning |\n| --- | --- | --- | --- | --- |\n");
    for variable in variables() {
        let default = variable
            .default
            .map_or_else(|| "–".to_owned(), |default| format!("`{default}`"));
        let Variable {
            name,
            kind,
            example,
            meaning,
            ..
        } = variable;
        let _ = writeln!(text, "| `{name}` | {kind} | {default} | `{example}` | {meaning} |");
    }
    text
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
    fn secrets_print_as_stars() {
        let config = config(&[("COMFY_ORG_API_KEY", "comfyui-4711")]).unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("4711"), "{shown}");
        assert_eq!(config.comfy.org_api_key.unwrap().reveal(), "comfyui-4711");
    }

    #[test]
    fn every_default_parses() {
        let names: Vec<_> = variables().iter().map(|variable| variable.name).collect();
        let all = variables()
            .into_iter()
            .filter_map(|variable| Some((variable.name.to_owned(), variable.default?.to_owned())));
        let config = Config::from_vars(all.filter(|(_, value)| !value.contains(' '))).unwrap();
        assert_eq!(config.resolved.len(), names.len(), "each variable is read exactly once");
    }

    #[test]
    fn the_documentation_lists_every_variable() {
        let page = include_str!("../../docs/configuration.md");
        assert!(
            page.contains(&variables_markdown()),
            "docs/configuration.md is out of date; its table must read:\n{}",
            variables_markdown()
        );
    }
}
