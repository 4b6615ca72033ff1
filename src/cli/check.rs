//! `check`: the configuration in force, and what it leads to.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use super::{EXIT_CONFIG, complain};
use crate::boot::{self, Plan, Source};
use crate::comfy::gpu::{self, GpuError, GpuFacts};
use crate::comfy::memory::MemoryLimit;
use crate::comfy::nodes::report::{NodesReport, PackReport};
use crate::config::{Config, ConfigError};
use crate::models::locate::Found;
use crate::models::manifest::{self, ManifestError};
use crate::models::volumes::Volume;

pub(super) fn check(config: &Result<Config, ConfigError>) -> ExitCode {
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let (gpu, mut code) = gpu(config);
    let consequences = match boot::plan(config) {
        Ok(plan) => {
            let (models, models_code) = models(config, &plan);
            if models_code != ExitCode::SUCCESS {
                code = models_code;
            }
            let nodes = match &plan {
                Plan::Start(_) => NodesReport::read(&config.paths.data_dir).map(|report| custom_nodes(&report)),
                Plan::Front(_) | Plan::Attach(_) => None,
            };
            format!("{}{}{models}", consequences(&plan), nodes.unwrap_or_default())
        }
        Err(error) => {
            code = ExitCode::FAILURE;
            format!("ComfyUI cannot be started: {error}\n")
        }
    };
    let memory = memory(MemoryLimit::of_this_process().as_ref());
    let text = format!("{}\n{gpu}{memory}{consequences}", variables(config));
    // A reader that closes the pipe early has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}

fn variables(config: &Config) -> String {
    let mut text = String::new();
    let width = config
        .resolved
        .iter()
        .map(|resolved| resolved.name.len())
        .max()
        .unwrap_or_default();
    for resolved in &config.resolved {
        let value = resolved.value.as_deref().unwrap_or("(not set)");
        let from = if resolved.from_environment {
            "environment"
        } else {
            "default"
        };
        let _ = writeln!(text, "{:width$}  {value}  ({from})", resolved.name);
    }
    for warning in &config.warnings {
        let _ = writeln!(text, "Warning: {warning}");
    }
    text
}

/// The limit, where there is one.
fn memory(limit: Option<&MemoryLimit>) -> String {
    limit.map_or_else(String::new, |limit| {
        format!("Memory: limit {limit}; a ComfyUI that is started here is told so\n")
    })
}

/// What the driver says of the GPU and what that leads to: a failure where the worker would not start.
fn gpu(config: &Config) -> (String, ExitCode) {
    if !gpu::nvidia_present() {
        return ("NVIDIA GPU: none found\n".to_owned(), ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let facts = match runtime {
        Ok(runtime) => runtime.block_on(gpu::facts()),
        Err(error) => Err(GpuError::NotRun(error)),
    };
    describe_gpu(&facts, config)
}

fn describe_gpu(facts: &Result<GpuFacts, GpuError>, config: &Config) -> (String, ExitCode) {
    let mut text = match facts {
        Ok(facts) => {
            let gpus: Vec<String> = facts.gpus.iter().map(ToString::to_string).collect();
            let driver = facts.driver.as_deref().unwrap_or("unknown");
            let cuda = facts.cuda.map_or_else(|| "unknown".to_owned(), |cuda| cuda.to_string());
            format!("NVIDIA GPU: {}; driver {driver}, CUDA {cuda}\n", gpus.join(", "))
        }
        Err(_) => "NVIDIA GPU: present\n".to_owned(),
    };
    match gpu::fitness(facts.as_ref(), None, &config.fitness) {
        Ok(warnings) => {
            for warning in warnings {
                let _ = writeln!(text, "Warning: {warning}");
            }
            (text, ExitCode::SUCCESS)
        }
        Err(unfit) => {
            let _ = writeln!(text, "The GPU is unfit: {unfit}");
            let fails = config.platform.on_runpod();
            (text, if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
    }
}

fn consequences(plan: &Plan) -> String {
    let plan = match plan {
        Plan::Front(_) => return "ComfyUI: none of its own; jobs run at the engines of ENGINES\n".to_owned(),
        Plan::Attach(urls) => return format!("ComfyUI: {}, which somebody else runs\n", boot::named(urls)),
        Plan::Start(plan) => plan,
    };
    let mut text = match &plan.source {
        Source::Existing(found) => format!(
            "ComfyUI: {} in {}, run by {}\n",
            found.named(),
            found.root.display(),
            found.python.display()
        ),
        Source::Managed(options) => match crate::comfy::install::find(options) {
            Some(found) => format!(
                "ComfyUI: {} in {}, installed by this worker\n",
                found.named(),
                found.root.display()
            ),
            None => format!(
                "ComfyUI: {} will be installed in {} (`qwen-image-worker setup` does it now)\n",
                options.wanted(),
                options.dir.display()
            ),
        },
    };
    if plan.cpu {
        text.push_str("It runs on the CPU\n");
    }
    let weights = match &plan.demo {
        Some(folder) => format!(
            "Models: demo weights in {}, a small model of plain shapes (DEMO_WEIGHTS=false switches them off)\n",
            folder.display()
        ),
        None => "Models: those in ComfyUI's own folders\n".to_owned(),
    };
    text.push_str(&weights);
    for folder in plan.volumes.iter().flat_map(Volume::models) {
        let _ = writeln!(text, "Models on a network volume: {}", folder.display());
    }
    text
}

/// What became of the custom nodes when ComfyUI was last started here.
fn custom_nodes(report: &NodesReport) -> String {
    if report.packs.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "Custom nodes at the last start, {}: {}\n",
        report.time(),
        report.summary()
    );
    for success in report.successes() {
        let _ = writeln!(text, "  {success}");
    }
    for trouble in report.packs.iter().filter_map(PackReport::trouble) {
        let _ = writeln!(text, "Warning: {trouble}");
    }
    text
}

/// The models that the worker will have from its start, and where new ones go.
fn models(config: &Config, plan: &Plan) -> (String, ExitCode) {
    let wanted = async {
        let catalog = manifest::catalog(&config.models).await?;
        let defaults = plan.defaults(config, &catalog).await;
        let wanted = manifest::wanted(&catalog, &config.models, &plan.default_sets(defaults))?;
        Ok::<_, ManifestError>((wanted, defaults))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (wanted, defaults) = match runtime.map(|runtime| runtime.block_on(wanted)) {
        Ok(Ok(wanted)) => wanted,
        Ok(Err(error)) => return (format!("The models are not known: {error}\n"), ExitCode::FAILURE),
        Err(error) => return (format!("The models are not known: {error}\n"), ExitCode::FAILURE),
    };
    let Some(places) = plan.places(config) else {
        return (String::new(), ExitCode::SUCCESS);
    };
    let usual = format!(
        "A request without a template runs `{}`, one with images `{}`\n",
        defaults.generate, defaults.edit
    );
    let missing = wanted
        .iter()
        .filter(|file| matches!(places.locate(file), Found::Missing));
    let mut text = match (wanted.len(), missing.count()) {
        (0, _) => "Models wanted from the start: none\n".to_owned(),
        (all, missing) => format!(
            "Models wanted from the start: {all}, of which {missing} will be fetched (`qwen-image-worker models list` names all that are known)\n"
        ),
    };
    text.push_str(&usual);
    if let Some(folder) = places.download_dir() {
        let _ = writeln!(text, "New models go to {}", folder.display());
    }
    (text, ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comfy::gpu::Gpu;
    use crate::comfy::nodes::report::PackState;

    #[test]
    fn custom_nodes_are_told_with_what_failed() {
        assert_eq!(custom_nodes(&NodesReport::default()), "");
        let pack = |name: &str, state, error: Option<&str>| PackReport {
            name: name.to_owned(),
            version: None,
            folder: name.into(),
            state,
            seconds: Some(1.0),
            classes: Vec::new(),
            error: error.map(str::to_owned),
            asked: true,
        };
        let report = NodesReport {
            at: 0,
            packs: vec![
                pack("a", PackState::Loaded, None),
                pack("b", PackState::Failed, Some("No module named 'x'")),
            ],
            ..NodesReport::default()
        };
        let text = custom_nodes(&report);
        assert!(
            text.starts_with("Custom nodes at the last start, 1970-01-01T00:00:00Z: 2 packs, 1 of them failed"),
            "{text}"
        );
        assert!(
            text.contains("\n  a loaded in 1.0 s\nWarning: b failed to load: No module named 'x'. "),
            "{text}"
        );
    }

    #[test]
    fn the_gpu_is_told_and_judged() {
        let vars = |more: &[(&str, &str)]| {
            let base = [("HOME", "/home/somebody")];
            let vars = base.iter().chain(more);
            Config::from_vars(vars.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).unwrap()
        };
        let facts = |memory_mib| {
            Ok(GpuFacts {
                driver: Some("570.86.15".to_owned()),
                cuda: "12.8".parse().ok(),
                gpus: vec![Gpu {
                    index: 0,
                    name: "NVIDIA H200".to_owned(),
                    memory_mib: Some(memory_mib),
                    free_mib: Some(memory_mib),
                }],
            })
        };
        let (text, code) = describe_gpu(&facts(143_771), &vars(&[]));
        assert_eq!(
            text,
            "NVIDIA GPU: GPU 0 (NVIDIA H200, 143771 MiB, 143771 MiB free); driver 570.86.15, CUDA 12.8\n"
        );
        assert_eq!(code, ExitCode::SUCCESS);
        let on_runpod = vars(&[("RUNPOD_POD_ID", "pod")]);
        let (text, code) = describe_gpu(&facts(2048), &on_runpod);
        assert!(text.contains("The GPU is unfit: gpu_memory: GPU 0"), "{text}");
        assert_eq!(code, ExitCode::FAILURE);
        assert_eq!(describe_gpu(&Err(GpuError::NoDevice), &vars(&[])).1, ExitCode::SUCCESS);
        assert_eq!(describe_gpu(&Err(GpuError::NoDevice), &on_runpod).1, ExitCode::FAILURE);
    }
}
