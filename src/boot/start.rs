//! Starts what was planned, one process for each GPU.

use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use tokio::sync::watch;
use url::Url;

use super::prepare::prepared;
use super::run_dir::{RunDir, make_folder};
use super::{BootError, Plan, StartPlan};
use crate::comfy::nodes::report;
use crate::comfy::process::{ComfyProcess, Launch, ProcessOptions, State};
use crate::comfy::{Boot, Comfy, Comfys, Folders, demo};
use crate::error::JobError;
use crate::telemetry::report::SharedReporter;
use crate::telemetry::start::{Phase, StartClock};

/// Starts what was planned. Returns at once; each ComfyUI gets ready in the background. The first is the one whose page is
/// shown.
pub fn start(plan: Plan, reporter: SharedReporter) -> Result<Comfys, BootError> {
    let plan = match plan {
        Plan::Front(folder) => return front(&folder),
        Plan::Attach(urls) => return attached(&urls),
        Plan::Start(plan) => plan,
    };
    let run_dir = RunDir::claim(&plan.data_dir.join("run"))?;
    let launch = plan.launch(run_dir.path());
    let rest = plan.gpus.iter().skip(1);
    let beside: Vec<Launch> = rest.map(|gpu| launch.beside(&gpu.name)).collect();
    let launches: Vec<&Launch> = std::iter::once(&launch).chain(&beside).collect();
    let temps: Vec<PathBuf> = launches.iter().map(|launch| launch.temp_directory()).collect();
    let folders = |own: &Launch| {
        let temp = own.temp_directory();
        Folders {
            output: launch.output_directory(),
            input: launch.input_directory(),
            other_temps: temps.iter().filter(|other| **other != temp).cloned().collect(),
            temp,
            are_ours: plan.has_folders_alone(&launch),
            mark: own.mark.clone(),
        }
    };
    if let Some(base) = &plan.base_dir {
        for folder in [
            base,
            &launch.output_directory(),
            &launch.input_directory(),
            &base.join("models"),
            &base.join("custom_nodes"),
            &base.join("user"),
        ] {
            make_folder(folder)?;
        }
    }
    if plan.demo.is_some() {
        tracing::warn!("{}", demo::WARNING);
    }
    let (senders, comfys) = channels(&plan, (folders(&launch), beside.iter().map(folders).collect()));
    let board = comfys.nodes().clone();
    let (clock, warnings) = (comfys.clock().clone(), comfys.warnings().clone());
    clock.reach(Phase::Process);
    tokio::spawn(async move {
        let (plan, reporter) = (&*plan, &*reporter);
        let tell = |boot: Boot| {
            for sender in &senders {
                sender.send_replace(boot.clone());
            }
        };
        let all_closed = || join_all(senders.iter().map(watch::Sender::closed));
        let prepared = prepared(tell, || plan.prepare(launch.clone(), reporter));
        tokio::select! {
            // Nobody waits for it any longer.
            _ = all_closed() => return,
            // The driver may take seconds.
            (prepared, card) = async { tokio::join!(prepared, plan.card_to_tune()) } => if let Some(mut launch) = prepared {
                clock.reach(Phase::InstallCheck);
                if let Some(warning) = plan.tune(&mut launch, card).await {
                    warnings.add(warning);
                }
                let mut watched = Some((plan.watched(&launch).await, board));
                for (index, sender) in senders.iter().enumerate() {
                    let process = ComfyProcess::start(plan.launch_on(&launch, index), plan.process_options());
                    note_ready(process.state(), clock.clone());
                    // All have the same nodes: the first tells of them.
                    if let Some((watched, board)) = watched.take() {
                        report::watch(&process, watched, board);
                    }
                    sender.send_replace(Boot::Started(process));
                }
            },
        }
        // The folder is ours for as long as somebody may use a process.
        all_closed().await;
        drop(run_dir);
    });
    Ok(comfys)
}

/// None, and folders for what engines elsewhere make.
fn front(folder: &Path) -> Result<Comfys, BootError> {
    let folders = Folders {
        output: folder.join("output"),
        input: folder.join("input"),
        temp: folder.join("temp"),
        are_ours: true,
        ..Folders::default()
    };
    for folder in [&folders.output, &folders.input, &folders.temp] {
        make_folder(folder)?;
    }
    Ok(Comfy::elsewhere(folders).into())
}

/// Those that somebody runs, by the names of their machines where there are several.
fn attached(urls: &[Url]) -> Result<Comfys, BootError> {
    let Some((first, rest)) = urls.split_first() else {
        return Err(BootError::Existing(JobError::internal("COMFYUI_URL names no ComfyUI")));
    };
    let comfy = Comfy::attached(first).map_err(BootError::Existing)?;
    if rest.is_empty() {
        return Ok(comfy.into());
    }
    let name = |url: &Url| {
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let path = url.path().trim_end_matches('/');
        format!("{host}{port}{path}")
    };
    let first = comfy.named(&name(first));
    let rest = (1..)
        .zip(rest)
        .map(|(number, url)| first.attached_beside((&name(url), number), url));
    let rest: Vec<Comfy> = rest.collect::<Result<_, _>>().map_err(BootError::Existing)?;
    Ok(Comfys::new(first, rest))
}

/// The first ComfyUI and the others, one for each of these folders, and what tells how far the start of each is.
fn channels(plan: &StartPlan, (own, others): (Folders, Vec<Folders>)) -> (Vec<watch::Sender<Boot>>, Comfys) {
    let (sender, boot) = watch::channel(Boot::Preparing);
    let mut senders = vec![sender];
    let first = Comfy::supervised_as(boot, own, plan.version.clone());
    let first = match plan.gpus.first() {
        Some(gpu) if !others.is_empty() => first.named(&gpu.name),
        _ => first,
    };
    let others = plan.gpus.iter().skip(1).zip(others).map(|(gpu, folders)| {
        let (sender, boot) = watch::channel(Boot::Preparing);
        senders.push(sender);
        first.beside(&gpu.name, boot, folders)
    });
    let others: Vec<Comfy> = others.collect();
    (senders, Comfys::new(first, others))
}

/// Notes when ComfyUI first answers.
fn note_ready(mut state: watch::Receiver<State>, clock: StartClock) {
    tokio::spawn(async move {
        if state.wait_for(|state| matches!(state, State::Ready(_))).await.is_ok() {
            clock.reach(Phase::Comfyui);
        }
    });
}

impl StartPlan {
    fn process_options(&self) -> ProcessOptions {
        ProcessOptions {
            poll_interval: self.comfy.poll_interval,
            max_retries: self.comfy.poll_max_retries,
            ..ProcessOptions::default()
        }
    }

    /// The launch of the ComfyUI on the GPU of this place in the list, from that of the first.
    fn launch_on(&self, launch: &Launch, index: usize) -> Launch {
        let gpu = self.gpus.get(index);
        let mut launch = match gpu {
            Some(gpu) if index > 0 => launch.beside(&gpu.name),
            _ => launch.clone(),
        };
        if let Some(gpu) = gpu {
            launch.env.push(("CUDA_VISIBLE_DEVICES".to_owned(), gpu.uuid.clone()));
        }
        launch
    }
}
