//! `models rm`

use std::process::ExitCode;

use indicatif::MultiProgress;

use super::{How, Room, Row, print};
use crate::config::{Config, ModelFile};
use crate::models::Removed;

pub(super) async fn rm(config: Config, names: &[String], how: &How, bars: &MultiProgress) -> anyhow::Result<ExitCode> {
    let room = Room::open(config, how, bars).await?;
    let mut files: Vec<ModelFile> = Vec::new();
    for name in names {
        if let Some(set) = room.models.catalog().files(name) {
            files.extend(set.into_iter().cloned());
        } else {
            files.push(ModelFile::named(name).map_err(|reason| {
                anyhow::anyhow!("{name} is neither a set nor a file as `models list` prints it: {reason}")
            })?);
        }
    }
    let mut rows = Vec::new();
    for file in &files {
        rows.push(match room.models.remove(file) {
            Ok(Removed::File(path)) => {
                let mut row = Row::new(file, "removed");
                row.path = Some(path);
                row
            }
            Ok(Removed::Leftovers) => Row::new(file, "removed").error("it was no more than what a download had left"),
            Ok(Removed::Nothing) => Row::new(file, "missing"),
            Err(error) => Row::new(file, "failed").error(error.full_text()),
        });
    }
    print(&rows, how.json)?;
    Ok(if rows.iter().any(|row| row.state == "failed") {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
