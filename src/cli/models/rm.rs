//! `models rm`

use std::process::ExitCode;

use indicatif::MultiProgress;

use super::{How, Room, Row, print};
use crate::config::{Config, ModelFile};
use crate::models::Removed;

pub(super) async fn rm(config: Config, names: &[String], how: &How, bars: &MultiProgress) -> anyhow::Result<ExitCode> {
    let room = Room::open(config, how, bars).await?;
    let mut targets: Vec<(String, String)> = Vec::new();
    for name in names {
        if let Some(set) = room.models.catalog().files(name) {
            targets.extend(set.into_iter().map(|file| (file.folder.clone(), file.name.clone())));
        } else {
            let target = ModelFile::folder_and_name(name);
            targets.push(target.map_err(|error| {
                anyhow::anyhow!("{name} is neither a set nor a file as `models list` prints it: {error}")
            })?);
        }
    }
    let mut rows = Vec::new();
    for (folder, name) in targets {
        let row = |state| Row {
            file: format!("{folder}/{name}"),
            state,
            bytes: None,
            source: None,
            path: None,
            error: None,
        };
        rows.push(match room.models.remove(&folder, &name) {
            Ok(Removed::File(path)) => Row {
                path: Some(path),
                ..row("removed")
            },
            Ok(Removed::Leftovers) => row("removed").error("it was no more than what a download had left"),
            Ok(Removed::Nothing) => row("missing"),
            Err(error) => row("failed").error(error.full_text()),
        });
    }
    print(&rows, how.json)?;
    Ok(if rows.iter().any(|row| row.state == "failed") {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
