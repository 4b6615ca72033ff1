//! `models verify`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::MultiProgress;

use super::{Choice, Room, Row, print};
use crate::config::{Config, ModelFile};
use crate::models::locate::Found;
use crate::models::{Verified, verify_file};

pub(super) async fn verify(config: Config, choice: Choice, bars: &MultiProgress) -> anyhow::Result<ExitCode> {
    let room = Room::open(config, &choice.how, bars).await?;
    let files = if choice.sets.is_empty() {
        room.models.catalog().all_files()
    } else {
        room.files(&choice.sets)?
    };
    let mut rows = Vec::new();
    for file in &files {
        let Some(places) = room.models.places() else { break };
        let path = match places.locate(file) {
            Found::Present(path) | Found::Linkable(path) | Found::WrongSize { path, .. } => path,
            // Of all that the manifest names most is not wanted here; of sets that were named, all is.
            Found::Missing if choice.sets.is_empty() => continue,
            Found::Missing => {
                rows.push(Row::new(file, "missing"));
                continue;
            }
        };
        rows.push(one(&room, file, path).await?);
    }
    print(&rows, choice.how.json)?;
    Ok(
        if rows.iter().all(|row| matches!(row.state, "verified" | "plausible")) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        },
    )
}

async fn one(room: &Room, file: &ModelFile, path: PathBuf) -> anyhow::Result<Row> {
    let expected = room.models.expected(file).await;
    let (reporter, label, at) = (room.reporter.clone(), file.target(), path.clone());
    let verified = tokio::task::spawn_blocking(move || verify_file(&at, &label, &expected, &*reporter))
        .await
        .context("the file could not be read")?;
    Ok(match verified {
        Verified::Right => Row::new(file, "verified").at(&path),
        Verified::Plausible(why) => Row::new(file, "plausible").at(&path).error(why),
        Verified::Wrong(why) => Row::new(file, "wrong").at(&path).error(why),
    })
}
