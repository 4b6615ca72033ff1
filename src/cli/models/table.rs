//! What the commands of `models` answer: a table, or JSON.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use crate::config::ModelFile;
use crate::telemetry::report::bytes;

/// One file of an answer.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// `folder/name`
    file: String,
    pub(super) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    /// What is wrong, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Row {
    pub(super) fn new(file: &ModelFile, state: &'static str) -> Self {
        Self {
            bytes: file.size,
            source: Some(file.origin.to_string()),
            ..Self::named(file.target(), state)
        }
    }

    /// Of a file of which no more is known than its name.
    pub(super) fn named(file: String, state: &'static str) -> Self {
        Self {
            file,
            state,
            bytes: None,
            source: None,
            path: None,
            error: None,
        }
    }

    /// At a place, with the size that it has there.
    pub(super) fn at(mut self, path: &Path) -> Self {
        self.bytes = std::fs::metadata(path).ok().map(|facts| facts.len()).or(self.bytes);
        self.path = Some(path.to_owned());
        self
    }

    /// Where it was.
    pub(super) fn formerly_at(mut self, path: PathBuf) -> Self {
        self.path = Some(path);
        self
    }

    pub(super) fn error(mut self, error: impl Into<String>) -> Self {
        self.error = Some(error.into());
        self
    }
}

/// Prints the rows: a line each, columns aligned, or JSON.
pub(super) fn print(rows: &[Row], json: bool) -> anyhow::Result<()> {
    let text = if json {
        let mut text = serde_json::to_string_pretty(rows)?;
        text.push('\n');
        text
    } else {
        table(rows)
    };
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that closes the pipe early has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("the answer cannot be printed"),
    }
}

fn table(rows: &[Row]) -> String {
    let width = |column: fn(&Row) -> usize| rows.iter().map(column).max().unwrap_or_default();
    let (states, files) = (width(|row| row.state.len()), width(|row| row.file.len()));
    let mut text = String::new();
    for row in rows {
        let size = row.bytes.map_or_else(|| "-".to_owned(), bytes);
        let place = row.path.as_ref().map(|path| path.display().to_string());
        let place = place.or_else(|| row.source.clone()).unwrap_or_default();
        let _ = writeln!(text, "{:states$}  {:files$}  {size:>9}  {place}", row.state, row.file);
        if let Some(error) = &row.error {
            let _ = writeln!(text, "{:states$}  {error}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_names_what_is_wrong() {
        let row = |file: &str, state, bytes, path: Option<&str>, error: Option<&str>| Row {
            file: file.to_owned(),
            state,
            bytes,
            source: Some("hf://owner/name@main/x.safetensors".to_owned()),
            path: path.map(PathBuf::from),
            error: error.map(str::to_owned),
        };
        let rows = [
            row(
                "vae/a.safetensors",
                "present",
                Some(253_806_246),
                Some("/models/vae/a.safetensors"),
                None,
            ),
            row("loras/long_name.safetensors", "missing", None, None, Some("it is gone")),
        ];
        insta::assert_snapshot!(table(&rows), @r"
        present  vae/a.safetensors             253.8 MB  /models/vae/a.safetensors
        missing  loras/long_name.safetensors          -  hf://owner/name@main/x.safetensors
                 it is gone
        ");
    }
}
