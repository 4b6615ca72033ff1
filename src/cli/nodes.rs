//! `nodes`: the packs of custom nodes that the configuration asks for.

mod answer;

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Subcommand;

use self::answer::{Answer, How, write};
use super::complain;
use super::screen::Screen;
use crate::boot::{self, Plan, Source, StartPlan};
use crate::comfy::install::{self, Installation};
use crate::comfy::nodes::report::NodesReport;
use crate::comfy::nodes::{self, Effort, InstalledPack, NodesError, Status};
use crate::config::Config;
use crate::disk::blocking;
use crate::display::Size;
use crate::error::JobError;

/// What `nodes` can do.
#[derive(Debug, Subcommand)]
pub(super) enum NodesCommand {
    /// Install what is missing, as a start does, and what failed; exit code 1 if a pack is not installed then.
    Install {
        /// Look up branches, tags and newest versions again.
        #[arg(long)]
        update: bool,
        #[command(flatten)]
        how: How,
    },
    /// List the packs: where they come from, whether they are installed, and whether they loaded at the last start.
    List(How),
    /// Fetch and resolve everything without installing it, and name what does not go together.
    Check(How),
    /// Print a manifest with the commit or version that each pack has now, for `CUSTOM_NODES_MANIFEST`.
    Freeze {
        /// Look up branches, tags and newest versions again.
        #[arg(long)]
        update: bool,
    },
    /// Remove installed sets of packs that are not in force any more.
    Rm {
        /// Remove the one in force too, and what is kept for the next.
        #[arg(long)]
        all: bool,
    },
}

pub(super) async fn nodes(config: Config, command: NodesCommand, screen: &Screen) -> anyhow::Result<ExitCode> {
    let plan = match boot::plan(&config)? {
        Plan::Front(_) => {
            screen.say("nothing to do: ENGINES makes this worker a front, which has no ComfyUI of its own");
            return Ok(ExitCode::SUCCESS);
        }
        Plan::Attach(urls) => {
            screen.say(&format!("nothing to do: COMFYUI_URL names a ComfyUI that runs already, {}, and its custom nodes are installed by whoever runs it", boot::named(&urls)));
            return Ok(ExitCode::SUCCESS);
        }
        Plan::Start(plan) => plan,
    };
    if !plan.nodes.are_wanted() && !matches!(command, NodesCommand::Rm { .. }) {
        screen.say("no custom nodes are asked for: set CUSTOM_NODES or CUSTOM_NODES_MANIFEST");
        match &command {
            NodesCommand::Install { how, .. } | NodesCommand::Check(how) => Answer::default().print(how)?,
            // That there are none installed does not keep others from having loaded.
            NodesCommand::List(_) | NodesCommand::Freeze { .. } | NodesCommand::Rm { .. } => {}
        }
        if !matches!(command, NodesCommand::List(_)) {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let stop = super::on_signals()?;
    let work = async {
        match command {
            NodesCommand::Install { update, how } => {
                let effort = if update { Effort::Anew } else { Effort::Failed };
                install(&plan, effort, &how, screen).await
            }
            NodesCommand::List(how) => {
                let status = nodes::status(&plan.nodes, installed(&plan).as_ref())
                    .await
                    .map_err(told)?;
                let data_dir = config.paths.data_dir.clone();
                let report = blocking(move || NodesReport::read(&data_dir)).await;
                Answer::of(status).with(&report.unwrap_or_default()).print(&how)?;
                Ok(ExitCode::SUCCESS)
            }
            NodesCommand::Check(how) => check(&plan, &how, screen).await,
            NodesCommand::Freeze { update } => freeze(&plan, update, screen).await,
            NodesCommand::Rm { all } => rm(&plan, all, screen).await,
        }
    };
    if let Some(done) = stop.run_until_cancelled(work).await {
        return done;
    }
    complain("stopped; what has come is kept, and the next `nodes install` goes on from there");
    Ok(ExitCode::from(super::EXIT_STOPPED))
}

async fn install(plan: &StartPlan, effort: Effort, how: &How, screen: &Screen) -> anyhow::Result<ExitCode> {
    let reporter = screen.reporter();
    let base = plan
        .installation(&*reporter)
        .await
        .map_err(|error| anyhow::anyhow!(JobError::from(error).full_text()))?;
    let set = nodes::install(&plan.nodes, &base, effort, &*reporter)
        .await
        .map_err(told)?;
    let is_well = |pack: &InstalledPack| pack.failure.is_none() && !pack.script_failed;
    let all_is_well = set.packs.iter().all(is_well) && set.trouble.is_none();
    let summary = set.summary();
    let status = Status {
        packs: set.packs.clone(),
        notes: set.notes.clone(),
        trouble: set.trouble.clone(),
        set: Some(set),
    };
    Answer::of(status).print(how)?;
    screen.say(&summary);
    Ok(code(all_is_well))
}

async fn check(plan: &StartPlan, how: &How, screen: &Screen) -> anyhow::Result<ExitCode> {
    let Some(base) = installed(plan) else {
        anyhow::bail!(
            "ComfyUI is not installed yet, and its packages are what those of the packs must go with: `qwen-image-worker setup` installs both"
        );
    };
    let checked = nodes::check(&plan.nodes, &base, &*screen.reporter())
        .await
        .map_err(told)?;
    let all_is_well = checked.trouble.is_none() && checked.packs.iter().all(|pack| pack.failure.is_none());
    Answer::of_check(checked).print(how)?;
    Ok(code(all_is_well))
}

async fn freeze(plan: &StartPlan, update: bool, screen: &Screen) -> anyhow::Result<ExitCode> {
    let base = installed(plan);
    let frozen = nodes::freeze(&plan.nodes, base.as_ref(), update, &*screen.reporter()).await;
    let frozen = frozen.map_err(told)?;
    write(&frozen.manifest);
    for (pack, reason) in &frozen.failures {
        complain(&format!("{pack} is left out: {reason}"));
    }
    if let Some(trouble) = &frozen.trouble {
        complain(trouble);
    }
    Ok(code(frozen.failures.is_empty() && frozen.trouble.is_none()))
}

async fn rm(plan: &StartPlan, all: bool, screen: &Screen) -> anyhow::Result<ExitCode> {
    let removed = nodes::remove(&plan.nodes, all, &*screen.reporter())
        .await
        .map_err(told)?;
    let mut line = match removed.sets {
        0 => "no set of custom nodes was removed".to_owned(),
        1 => "1 set of custom nodes removed".to_owned(),
        sets => format!("{sets} sets of custom nodes removed"),
    };
    let _ = write!(line, ", {} freed", Size(removed.freed));
    if removed.cached > 0 {
        let _ = write!(
            line,
            "; {} more lie in uv's cache (`uv cache clean` empties it)",
            Size(removed.cached)
        );
    }
    if removed.in_use > 0 {
        let _ = write!(line, "; {} left, since workers use them", removed.in_use);
    }
    screen.say(&line);
    Ok(ExitCode::SUCCESS)
}

/// `ComfyUI`, if it is there.
fn installed(plan: &StartPlan) -> Option<Installation> {
    match &plan.source {
        Source::Managed(options) => install::find(options),
        Source::Existing(found) => Some(found.clone()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn told(error: NodesError) -> anyhow::Error {
    anyhow::anyhow!(error.whole())
}

fn code(all_is_well: bool) -> ExitCode {
    if all_is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
