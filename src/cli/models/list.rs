//! `models list`

use std::process::ExitCode;

use indicatif::MultiProgress;

use super::{Choice, Room, Row, print};
use crate::config::{Config, ModelFile};
use crate::models::locate::{Found, Places};

pub(super) async fn list(config: Config, choice: Choice, bars: &MultiProgress) -> anyhow::Result<ExitCode> {
    let room = Room::open(config, &choice.how, bars).await?;
    let files = if choice.sets.is_empty() {
        room.models.catalog().all_files()
    } else {
        room.files(&choice.sets)?
    };
    let Some(places) = room.models.places() else {
        return Ok(ExitCode::FAILURE);
    };
    let rows: Vec<Row> = files.iter().map(|file| row(places, file)).collect();
    print(&rows, choice.how.json)?;
    Ok(ExitCode::SUCCESS)
}

fn row(places: &Places, file: &ModelFile) -> Row {
    match places.locate(file) {
        Found::Present(path) => Row::new(file, "present").at(&path),
        Found::Linkable(path) => Row::new(file, "cached").at(&path),
        Found::WrongSize { path, expected, .. } => Row::new(file, "wrong size").at(&path).error(format!(
            "it should have {expected} bytes; `models rm` and `models pull` fetch it anew"
        )),
        Found::Missing => Row::new(file, "missing"),
    }
}
