//! `models pull`

use std::process::ExitCode;

use indicatif::MultiProgress;

use super::{Choice, Room, Row, print};
use crate::cli::{EXIT_STOPPED, complain};
use crate::config::Config;
use crate::telemetry::report::{Meter, Unit};

pub(super) async fn pull(config: Config, choice: Choice, bars: &MultiProgress) -> anyhow::Result<ExitCode> {
    let stop = crate::cli::on_signals()?;
    let room = Room::open(config, &choice.how, bars).await?;
    let files = room.some_files(&choice.sets)?;
    let mut all: Option<Box<dyn Meter>> = None;
    let pulled = room.models.pull(&files, |download| {
        // One file has a meter of its own.
        let Some(total) = download.total_bytes.filter(|_| files.len() > 1) else {
            return;
        };
        all.get_or_insert_with(|| room.reporter.begin("models in all", Some(total), Unit::Bytes))
            .position(download.bytes);
    });
    let results = tokio::select! {
        results = pulled => results,
        () = stop.cancelled() => {
            room.models.stop().await;
            complain("stopped; what has come is kept, and the next `models pull` goes on from there");
            return Ok(ExitCode::from(EXIT_STOPPED));
        }
    };
    drop(all);
    let rows: Vec<Row> = files
        .iter()
        .zip(&results)
        .map(|(file, result)| match result {
            Ok(path) => Row::new(file, "present").at(path),
            Err(error) => Row::new(file, "failed").error(error.full_text()),
        })
        .collect();
    print(&rows, choice.how.json)?;
    Ok(if results.iter().all(Result::is_ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
