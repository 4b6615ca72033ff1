//! `setup --check VERSION`: every template is run on that version of `ComfyUI`, on the CPU, with demo weights.
//!
//! Nothing of the working installation is touched: the version is installed beside it, and the trial has a data folder of its
//! own, which goes when it is over. The jobs go through queue and executor as any others.

use std::io::{Cursor, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use image::{ImageFormat, Rgba, RgbaImage};

use super::SetupArguments;
use super::report::{self, Report, Row, State, one_line};
use crate::app::{self, App, Jobs};
use crate::boot::{self, Plan, RunDir};
use crate::cli::screen::Screen;
use crate::cli::{EXIT_STOPPED, complain, on_signals};
use crate::comfy::install;
use crate::config::{ComfySource, Config};
use crate::error::{ErrorKind, JobError};
use crate::job::{Delivery, ImageName, InputImage, JobRequest, JobView, Policy, TemplateRequest, Work};
use crate::telemetry::report::Unit;
use crate::workflow::{Template, Templates};

/// The longest that `ComfyUI` may take until it takes prompts: a new version compiles all of its Python.
const LONGEST_START: Duration = Duration::from_mins(10);
/// The longest that one template may take. On two cores it is half a minute at most.
const LONGEST_JOB: Duration = Duration::from_mins(10);
/// Width and height of the pictures, in pixels.
const SIDE: u32 = 256;
/// The same of what goes in.
const INPUT_SIDE: u32 = 64;

/// Arguments of the user's that decide what can be tried at all. The others are for a GPU, or name folders of the working
/// installation.
const KEPT_ALONE: [&str; 2] = ["--disable-all-custom-nodes", "--disable-api-nodes"];
/// The same, with a value.
const KEPT_WITH_VALUE: [&str; 1] = ["--front-end-root"];

/// Runs the trial. The exit code says whether all templates passed.
pub(super) async fn check(
    config: &Config,
    version: Option<&str>,
    arguments: &SetupArguments,
    screen: &Screen,
) -> anyhow::Result<ExitCode> {
    // Before anything is installed, as they may be wrong.
    let templates = app::templates(config.paths.workflows_dir.as_deref())?;
    let templates = chosen(&templates, &arguments.templates).map_err(told)?;
    let folder = RunDir::claim(&config.paths.data_dir.join("check"))?;
    let config = trial_config(config, version, folder.path())?;
    let Plan::Start(plan) = boot::plan(&config)? else {
        anyhow::bail!(
            "COMFYUI_URL names a running ComfyUI, whose version is not the worker's affair; `setup --check VERSION` installs one and tries it"
        );
    };
    let reporter = screen.reporter();
    let installation = plan.install(&*reporter).await.map_err(told)?;
    // With the custom nodes, whose installation is no part of the start.
    plan.set_up(&*reporter).await.map_err(told)?;
    let stop = on_signals()?;
    let began = Instant::now();
    let app = App::build(&config, reporter, Jobs::Forgotten).await?;
    let tried = tokio::select! {
        tried = async {
            tokio::time::timeout(LONGEST_START, app.comfy.connection())
                .await
                .map_err(|_| anyhow::anyhow!("ComfyUI takes no prompts after {} s", LONGEST_START.as_secs()))?
                .map_err(told)
                .with_context(|| format!("ComfyUI {} does not start", installation.named()))?;
            let mut report = Report::new(installation, began.elapsed().as_secs_f64());
            match install::other_packages(&report.python).await {
                Ok(packages) => report.packages = packages,
                Err(error) => report.packages_error = Some(error),
            }
            report.templates = run_all(&app, &templates, screen).await;
            let kept = app.comfy.nodes().report();
            report.custom_nodes = kept.map(|kept| report::packs(&kept)).unwrap_or_default();
            Ok::<_, anyhow::Error>(report)
        } => Some(tried),
        () = stop.cancelled() => None,
    };
    app.stop(Duration::ZERO).await;
    let Some(report) = tried.transpose()? else {
        complain("stopped before all templates were tried");
        return Ok(ExitCode::from(EXIT_STOPPED));
    };
    let text = if arguments.json {
        format!("{}\n", serde_json::to_string_pretty(&report)?)
    } else {
        report.table()
    };
    // A reader that closes the pipe early has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A configuration for the trial alone: of the user's it has what decides which `ComfyUI` is installed and how it is started,
/// and no models, keys, buckets or volumes.
fn trial_config(config: &Config, version: Option<&str>, folder: &Path) -> anyhow::Result<Config> {
    let folder_text = folder
        .to_str()
        .context("DATA_DIR is no text that a variable can hold")?;
    let variables = [
        ("DATA_DIR", folder_text),
        ("NETWORK_VOLUMES", "none"),
        ("DEMO_WEIGHTS", "true"),
        ("COMFYUI_VERSION", version.unwrap_or("pinned")),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut trial = Config::from_vars(variables)?;
    if version.is_some() {
        trial.comfy.source = ComfySource::Managed;
    } else {
        trial.comfy.source.clone_from(&config.comfy.source);
        trial.comfy.version.clone_from(&config.comfy.version);
    }
    let base = folder.join("base").display().to_string();
    trial.comfy.args = ["--cpu", "--base-directory"].map(str::to_owned).to_vec();
    trial.comfy.args.push(base);
    trial.comfy.args.extend(kept(&config.comfy.args));
    trial.comfy.repository.clone_from(&config.comfy.repository);
    trial.comfy.torch_index.clone_from(&config.comfy.torch_index);
    trial.comfy.python.clone_from(&config.comfy.python);
    trial.comfy.env.clone_from(&config.comfy.env);
    trial.comfy.log_level.clone_from(&config.comfy.log_level);
    trial.nodes.clone_from(&config.nodes);
    trial.paths.install_dir.clone_from(&config.paths.install_dir);
    trial.paths.workflows_dir.clone_from(&config.paths.workflows_dir);
    Ok(trial)
}

/// Those of `arguments` that the trial takes over.
fn kept(arguments: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let name = argument.split('=').next().unwrap_or_default();
        if KEPT_ALONE.contains(&name) {
            kept.push(argument.clone());
        } else if KEPT_WITH_VALUE.contains(&name) {
            kept.push(argument.clone());
            if !argument.contains('=') {
                kept.extend(rest.next().cloned());
            }
        }
    }
    kept
}

/// The templates of these names; all where there are none.
fn chosen<'a>(templates: &'a Templates, names: &[String]) -> Result<Vec<&'a Template>, JobError> {
    if names.is_empty() {
        return Ok(templates.iter().collect());
    }
    names.iter().map(|name| templates.find(name)).collect()
}

async fn run_all(app: &App, templates: &[&Template], screen: &Screen) -> Vec<Row> {
    let reporter = screen.reporter();
    let mut meter = reporter.begin("templates", Some(templates.len() as u64), Unit::Items);
    let mut rows = Vec::with_capacity(templates.len());
    for (done, template) in templates.iter().enumerate() {
        meter.detail(template.name());
        meter.position(done as u64);
        let began = Instant::now();
        let ended = match request(template) {
            Ok(request) => run_one(app, request).await,
            Err(error) => Err(error),
        };
        let (state, reason) = outcome(template, ended);
        rows.push(Row {
            template: template.name().to_owned(),
            state,
            seconds: began.elapsed().as_secs_f64(),
            reason,
        });
    }
    meter.finish(&format!("{} tried", rows.len()));
    rows
}

async fn run_one(app: &App, request: JobRequest) -> Result<JobView, JobError> {
    let policy = Policy {
        ttl: Some(LONGEST_JOB),
        ..Policy::default()
    };
    let place = app.queue.permit()?;
    let id = app.queue.submit(place, request, policy).await?;
    app.queue.wait(id.as_str()).await
}

/// What came of a template, and why it did not pass.
fn outcome(template: &Template, ended: Result<JobView, JobError>) -> (State, Option<String>) {
    let error = match ended {
        Ok(view) => match view.result {
            Some(Ok(outcome)) if outcome.files.is_empty() => {
                return (State::Failed, Some("it left no picture".to_owned()));
            }
            Some(Ok(_)) => return (State::Passed, None),
            Some(Err(error)) => JobError::clone(&error),
            None => JobError::internal(format!("it ended as {}", view.state)),
        },
        Err(error) => error,
    };
    // Templates of the user's may name any model. Those of ours that need a newer ComfyUI have no demo weights, and may be
    // too new for this one.
    let is_ours = Templates::embedded().is_ok_and(|ours| ours.get(template.name()) == Some(template));
    let lacks_models = error.kind == ErrorKind::ModelMissing && (!is_ours || template.needs().is_some());
    let is_too_new = template.needs().is_some() && error.field.as_deref() == Some("template");
    let state = if lacks_models || is_too_new {
        State::Skipped
    } else {
        State::Failed
    };
    (state, Some(one_line(&error)))
}

/// The least work that goes through every node of the template.
fn request(template: &Template) -> Result<JobRequest, JobError> {
    let images = (0..*template.images().start())
        .map(|number| {
            let name = ImageName::parse(&format!("{number}.png")).map_err(JobError::internal)?;
            InputImage::from_bytes(name, picture(template.needs_mask())?.into())
        })
        .collect::<Result<Vec<_>, JobError>>()?;
    let takes = |field| template.takes(field);
    Ok(JobRequest {
        work: Work::Template(TemplateRequest {
            template: Some(template.name().to_owned()),
            prompt: "a house by the sea".to_owned(),
            seed: Some(1),
            width: takes("width").then_some(SIDE),
            height: takes("height").then_some(SIDE),
            steps: takes("steps").then_some(1),
            cfg: takes("cfg").then_some(1.0),
            ..TemplateRequest::default()
        }),
        images,
        delivery: Delivery::default(),
        org_api_key: None,
        extra_data: serde_json::Map::new(),
        warnings: Vec::new(),
    })
}

/// A small picture in PNG; the left half is transparent, where that is filled in.
fn picture(has_gap: bool) -> Result<Vec<u8>, JobError> {
    let shade = |at: u32| u8::try_from(at * 255 / INPUT_SIDE).unwrap_or(u8::MAX);
    let pixels = RgbaImage::from_fn(INPUT_SIDE, INPUT_SIDE, |x, y| {
        let is_gap = has_gap && x < INPUT_SIDE / 2;
        Rgba([shade(x), shade(y), 128, if is_gap { 0 } else { u8::MAX }])
    });
    let mut png = Cursor::new(Vec::new());
    pixels
        .write_to(&mut png, ImageFormat::Png)
        .map_err(|error| JobError::internal(format!("no picture can be made: {error}")))?;
    Ok(png.into_inner())
}

fn told(error: impl Into<JobError>) -> anyhow::Error {
    anyhow::anyhow!(error.into().full_text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VersionChoice;
    use crate::job::check_own_mask;
    use crate::workflow::Parameters;

    fn config(more: &[(&str, &str)]) -> Config {
        let all = [("DATA_DIR", "/data"), ("HOME", "/home/somebody")];
        let vars = all.iter().chain(more);
        Config::from_vars(vars.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).unwrap()
    }

    #[test]
    fn the_trial_has_folders_of_its_own_and_no_gpu_keys_or_models() {
        let config = config(&[
            ("COMFYUI_DIR", "/comfyui"),
            (
                "COMFYUI_ARGS",
                "--highvram --output-directory /o --front-end-root /page --disable-api-nodes",
            ),
            ("COMFYUI_REPOSITORY", "file:///mirror"),
            ("COMFYUI_INSTALL_DIR", "/installed"),
            ("MODEL_SET", "qwen-image"),
            ("COMFY_ORG_API_KEY", "secret"),
            ("RUNPOD_POD_ID", "pod"),
            ("BUCKET_ENDPOINT_URL", "https://s3.example.com/b"),
            ("BUCKET_ACCESS_KEY_ID", "id"),
            ("BUCKET_SECRET_ACCESS_KEY", "secret"),
        ]);
        let trial = trial_config(&config, Some("v0.46.0"), Path::new("/data/check/1")).unwrap();
        assert_eq!(trial.comfy.source, ComfySource::Managed);
        assert_eq!(trial.comfy.version, VersionChoice::Reference("v0.46.0".to_owned()));
        assert_eq!(trial.comfy.repository, "file:///mirror");
        assert_eq!(
            trial.comfy.args,
            [
                "--cpu",
                "--base-directory",
                "/data/check/1/base",
                "--front-end-root",
                "/page",
                "--disable-api-nodes"
            ]
        );
        assert_eq!(trial.paths.install_dir, Path::new("/installed"));
        assert_eq!(trial.paths.data_dir, Path::new("/data/check/1"));
        assert!(!trial.models.are_chosen() && trial.delivery.bucket.is_none() && trial.comfy.org_api_key.is_none());
        assert!(!trial.platform.on_runpod());
        // Without a version it is the one in force that is tried.
        let trial = trial_config(&config, None, Path::new("/data/check/1")).unwrap();
        assert_eq!(trial.comfy.source, ComfySource::Existing("/comfyui".into()));
    }

    #[test]
    fn a_version_that_is_none_is_refused() {
        let error = trial_config(&config(&[]), Some("--x"), Path::new("/data/check/1")).unwrap_err();
        assert!(error.to_string().contains("COMFYUI_VERSION"), "{error}");
    }

    #[test]
    fn every_template_gets_the_images_that_it_needs() {
        for template in Templates::embedded().unwrap().iter() {
            let request = request(template).unwrap();
            let name = template.name();
            assert!(template.images().contains(&request.images.len()), "{name}");
            let Work::Template(asked) = request.work else {
                panic!("{name}")
            };
            let parameters = Parameters {
                prompt: asked.prompt,
                width: asked.width,
                height: asked.height,
                steps: asked.steps,
                cfg: asked.cfg,
                images: request.images.iter().map(|image| image.name.to_string()).collect(),
                ..Parameters::default()
            };
            assert!(template.render(&parameters).is_ok(), "{name}");
            // Nothing is filled in but what is transparent.
            let marks = request.images.iter().all(|image| check_own_mask(image).is_ok());
            assert!(marks || !template.needs_mask(), "{name}");
        }
    }

    #[test]
    fn a_model_that_the_demo_weights_lack_is_no_failure_of_a_template_of_the_users() {
        let templates = Templates::embedded().unwrap();
        let ours = templates.get("qwen-image").unwrap();
        let missing = || Err(JobError::new(ErrorKind::ModelMissing, "Failed to load model: x"));
        assert_eq!(outcome(ours, missing()).0, State::Failed);
        let graph = serde_json::json!({"1": {"class_type": "X", "inputs": {"text": "", "images": ""}}}).to_string();
        let files = [
            ("mine.json", graph.as_str()),
            (
                "mine.bindings.toml",
                "title = \"x\"\nkind = \"generate\"\n[inputs]\nprompt = \"1.text\"\n[output]\nnode = \"1\"\nimages = \"images\"\n",
            ),
        ];
        let files = files.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let mine = Templates::load(&files).unwrap();
        let (state, reason) = outcome(mine.get("mine").unwrap(), missing());
        assert_eq!(
            (state, reason.as_deref()),
            (State::Skipped, Some("Failed to load model: x"))
        );
    }
}
