//! What a graph refers to: assets, and what jobs made, each by its id.

use std::collections::HashMap;

use super::outputs::{self, Found};
use super::{Told, Unmet};
use crate::assets::{Asset, AssetError, Hold};
use crate::dialect::comfy_v2::{Code, Refusal, Submission, Workflow, content_type};
use crate::error::JobError;
use crate::http::auth::Caller;
use crate::http::state::State;
use crate::job::{
    AssetContent, Committed, ContentHash, ImageContent, InputImage, MOST_IMAGES, ModelPlace, Origin, Source,
};
use crate::workflow::{BadReference, asset_ids, put_names};

/// How many references at fault are told.
const MOST_TOLD: usize = 16;

/// What a graph refers to.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    contents: Vec<ContentHash>,
    /// Outputs whose bytes are still to be copied in, with what they are.
    to_copy: Vec<(Committed, ContentHash)>,
}

impl Resolved {
    /// Copies in what is still elsewhere, once the graph is known to be right. Gives the contents that the job needs, which
    /// stay as long as `hold` is there.
    pub(super) async fn bring(self, state: &State, hold: &Hold) -> Told<Vec<ContentHash>> {
        let mut contents = self.contents;
        for (output, expected) in self.to_copy {
            match kept(state, hold, &output).await? {
                Some((hash, _)) if hash == expected => contents.push(hash),
                // Gone, or written over since.
                _ => return Err(missing(vec![output.id]).into()),
            }
        }
        contents.sort_unstable();
        contents.dedup();
        Ok(contents)
    }
}

/// Puts the names of files in the places of references, and the files beside the graph. What it refers to stays as long as
/// `hold` is there.
pub(super) async fn resolve(
    state: &State,
    hold: &Hold,
    caller: &Caller,
    submission: &mut Submission,
) -> Told<Resolved> {
    let mut resolved = Resolved::default();
    let Workflow::Graph(graph) = &mut submission.workflow else {
        return Ok(resolved);
    };
    let ids = asset_ids(graph).map_err(|bad| malformed(&bad))?;
    if ids.is_empty() {
        return Ok(resolved);
    }
    if ids.len() > MOST_IMAGES {
        let message = format!(
            "The graph refers to {} assets, and may refer to {MOST_IMAGES}",
            ids.len()
        );
        return Err(Refusal::new(Code::InvalidWorkflow, message).into());
    }
    let owner = caller.key.as_deref().unwrap_or_default();
    let mut records = state.assets.referenced(hold, owner, &ids).await?;
    let (mut found, mut absent) = (Vec::with_capacity(ids.len()), Vec::new());
    for id in ids {
        let asset = match records.remove(&id) {
            Some(record) => {
                resolved.contents.push(record.hash);
                Some(of_record(state, record))
            }
            None => of_output(state, hold, caller, &id, &mut resolved).await?,
        };
        match asset {
            Some(asset) => found.push(asset),
            None => absent.push(id),
        }
    }
    if !absent.is_empty() {
        return Err(missing(absent).into());
    }
    let mut names = HashMap::new();
    for asset in found {
        let name = asset.name().map_err(JobError::internal)?;
        names.insert(asset.id.clone(), name.as_str().to_owned());
        submission.images.push(InputImage {
            name,
            content: ImageContent::Asset(Box::new(asset)),
            origin: Origin::Files,
        });
    }
    put_names(graph, |id| names.get(id).cloned());
    Ok(resolved)
}

fn missing(mut ids: Vec<String>) -> Refusal {
    ids.truncate(MOST_TOLD);
    let message = format!(
        "The graph refers to assets that are not here, or no more: {}. Upload them, and use their new ids",
        ids.join(", ")
    );
    Refusal::new(Code::MissingAsset, message).detail("missing_ids", ids)
}

fn malformed(bad: &[BadReference]) -> Refusal {
    let told = bad.iter().take(MOST_TOLD);
    let nodes: Vec<_> = told
        .map(|bad| serde_json::json!({"node_id": bad.node, "field": bad.input, "message": bad.why}))
        .collect();
    let message = match bad.first() {
        Some(BadReference {
            node,
            class,
            input,
            why,
        }) => {
            let (node, class, input) = (crate::echo::cut(node), crate::echo::cut(class), crate::echo::cut(input));
            format!("`{input}` of node {node} ({class}) {why}")
        }
        None => "A reference to an asset is none".to_owned(),
    };
    Refusal::new(Code::MissingAsset, message)
        .detail("missing_ids", Vec::<String>::new())
        .detail("references", nodes)
}

fn of_record(state: &State, record: Asset) -> AssetContent {
    let path = record.file_path.as_deref().filter(|_| state.assets.takes_models());
    let model = path.and_then(ModelPlace::of).and_then(Result::ok);
    AssetContent {
        id: record.id,
        hash: record.hash,
        bytes: record.bytes,
        content_type: record.content_type,
        file_path: record.file_path,
        model,
    }
}

/// What a job made, as an asset: its bytes are copied in, since it goes with its job; later, where it is known what they are.
async fn of_output(
    state: &State,
    hold: &Hold,
    caller: &Caller,
    id: &str,
    resolved: &mut Resolved,
) -> Told<Option<AssetContent>> {
    let owner = caller.key.as_deref().unwrap_or_default();
    let Some(Found { output, .. }) = outputs::find(state, Some(owner), id).await? else {
        return Ok(None);
    };
    let (hash, bytes) = match output.hash {
        Some(hash) if state.assets.is_here(hold, hash).await => {
            resolved.contents.push(hash);
            (hash, output.bytes)
        }
        Some(hash) => {
            resolved.to_copy.push((output.clone(), hash));
            (hash, output.bytes)
        }
        None => {
            let Some((hash, bytes)) = kept(state, hold, &output).await? else {
                return Ok(None);
            };
            resolved.contents.push(hash);
            (hash, bytes)
        }
    };
    Ok(Some(AssetContent {
        id: id.to_owned(),
        hash,
        bytes,
        content_type: content_type(&output).to_owned(),
        file_path: Some(output.name),
        model: None,
    }))
}

/// Copies an output in; [`None`]: it is gone.
async fn kept(state: &State, hold: &Hold, output: &Committed) -> Told<Option<(ContentHash, u64)>> {
    let kept = match (&output.source, output.as_file()) {
        (Source::Text(text), _) => state.assets.keep_bytes(hold, text.to_string().into()).await,
        (Source::File { folder, subfolder, .. }, Some(file)) => match state.comfy.folders() {
            Some(folders) => match folders.path(*folder, subfolder, &output.name) {
                Some(path) => state.assets.keep_file(hold, &path).await,
                None => return Ok(None),
            },
            None => match state.results.content(&file).await {
                Ok(content) => state.assets.keep_bytes(hold, content).await,
                Err(error) => {
                    tracing::debug!("an output that a job names is not there: {}", error.full_text());
                    return Ok(None);
                }
            },
        },
        (Source::File { .. }, None) => return Ok(None),
    };
    match kept {
        Ok(kept) => Ok(Some(kept)),
        Err(AssetError::File(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Unmet::from(error)),
    }
}
