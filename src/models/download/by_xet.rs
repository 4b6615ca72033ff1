//! A file by Xet, as far as that goes; ranges bring the rest.

use std::sync::Arc;

use super::error::{FetchError, Trouble};
use super::plan::PieceId;
use super::transfer::{Engine, Transfer};
use super::types::Source;
use super::xet::{Pieces, Xet, XetError, XetFile};
use crate::net::shown::with_causes;

/// Bytes are written in portions of this size, so that the journal and the hash keep up.
const PORTION: usize = 4 << 20;

/// Why a file did not come, or not all of it.
enum Failure {
    /// Xet's fault: ranges may do better.
    Xet(XetError),
    /// Not Xet's.
    Other(FetchError),
}

impl From<XetError> for Failure {
    fn from(error: XetError) -> Self {
        Self::Xet(error)
    }
}

/// Fetches a file of the Hub that Xet has and of which nothing is there yet. What is missing after that is for the
/// others: where Xet fails, the log says so.
pub(super) async fn fetch(transfer: &Arc<Transfer>) -> Result<(), Trouble> {
    let Source::Hub(file) = &transfer.source else {
        return Ok(());
    };
    let resolved = transfer.place().await.resolved;
    // What comes by Xet is checked by its SHA-256 alone.
    let (Some(hash), Some(commit), Some(_)) = (&resolved.xet_hash, &resolved.commit, &resolved.sha256) else {
        return Ok(());
    };
    let size = {
        let plan = transfer.plan();
        plan.size().filter(|_| plan.done().is_empty())
    };
    let (Some(size), Some(xet)) = (size, xet(&transfer.engine)) else {
        return Ok(());
    };
    let file = XetFile {
        repo: &file.repo,
        commit,
        hash,
        size,
    };
    match receive(transfer, xet, &file).await {
        Ok(()) => Ok(()),
        Err(Failure::Xet(error)) => {
            tracing::warn!(
                "Xet did not bring the model file {}: {}; the rest comes by ranges",
                transfer.label,
                with_causes(&error)
            );
            Ok(())
        }
        Err(Failure::Other(error)) => Err(Trouble::Final(error)),
    }
}

fn xet(engine: &Engine) -> Option<&Xet> {
    if !engine.settings.xet {
        return None;
    }
    let make = || {
        Xet::new(&engine.settings)
            .inspect_err(|error| tracing::warn!("Xet cannot be used for models: {}", with_causes(error)))
            .ok()
    };
    engine.xet.get_or_init(make).as_ref()
}

async fn receive(transfer: &Arc<Transfer>, xet: &Xet, file: &XetFile<'_>) -> Result<(), Failure> {
    let mut pieces = xet.open(file, 0..file.size).await?;
    // For one connection all of it is one piece.
    let Some((id, _)) = transfer.plan().claim(1) else {
        return Ok(());
    };
    let written = write(transfer, &mut pieces, id).await;
    transfer.plan().release(id);
    written
}

async fn write(transfer: &Arc<Transfer>, pieces: &mut Pieces, id: PieceId) -> Result<(), Failure> {
    let mut buffer = Vec::new();
    while let Some(bytes) = pieces.next().await? {
        transfer.count(bytes.len() as u64);
        for portion in bytes.chunks(PORTION) {
            buffer.clear();
            buffer.extend_from_slice(portion);
            (_, buffer) = transfer.write(id, buffer).await.map_err(Failure::Other)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "by_xet_tests.rs"]
mod tests;
