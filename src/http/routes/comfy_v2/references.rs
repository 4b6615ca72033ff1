//! What a graph refers to: assets, and what jobs made, each by its id.

use std::collections::HashMap;

use super::outputs::{self, Found};
use super::{Told, Unmet};
use crate::assets::{Asset, AssetError, Hold};
use crate::dialect::comfy_v2::{Code, Refusal, Submission, Workflow, content_type};
use crate::error::JobError;
use crate::http::auth::Caller;
use crate::http::state::State;
use crate::job::{AssetContent, ContentHash, ImageContent, InputImage, MOST_IMAGES, ModelPlace, Origin, Source};
use crate::workflow::{BadReference, asset_ids, put_names};

/// How many references at fault are told.
const MOST_TOLD: usize = 16;

/// Puts the names of files in the places of references, and the files beside the graph. Gives the contents that the job needs,
/// which stay as long as `hold` is there.
pub(super) async fn resolve(
    state: &State,
    hold: &Hold,
    caller: &Caller,
    submission: &mut Submission,
) -> Told<Vec<ContentHash>> {
    let Workflow::Graph(graph) = &mut submission.workflow else {
        return Ok(Vec::new());
    };
    let ids = asset_ids(graph).map_err(|bad| malformed(&bad))?;
    if ids.is_empty() {
        return Ok(Vec::new());
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
    let (mut found, mut missing) = (Vec::with_capacity(ids.len()), Vec::new());
    for id in ids {
        let asset = match records.remove(&id) {
            Some(record) => Some(of_record(state, record)),
            None => of_output(state, hold, caller, &id).await?,
        };
        match asset {
            Some(asset) => found.push(asset),
            None => missing.push(id),
        }
    }
    if !missing.is_empty() {
        missing.truncate(MOST_TOLD);
        let message = format!(
            "The graph refers to assets that are not here, or no more: {}. Upload them, and use their new ids",
            missing.join(", ")
        );
        return Err(Refusal::new(Code::MissingAsset, message)
            .detail("missing_ids", missing)
            .into());
    }
    let mut names = HashMap::new();
    for asset in &found {
        let name = asset.name().map_err(JobError::internal)?;
        submission.images.push(InputImage {
            name: name.clone(),
            content: ImageContent::Asset(Box::new(asset.clone())),
            origin: Origin::Files,
        });
        names.insert(asset.id.clone(), name.as_str().to_owned());
    }
    put_names(graph, |id| names.get(id).cloned());
    let mut contents: Vec<ContentHash> = found.iter().map(|asset| asset.hash).collect();
    contents.sort_unstable();
    contents.dedup();
    Ok(contents)
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

/// What a job made, as an asset: its bytes are copied in, since it goes with its job.
async fn of_output(state: &State, hold: &Hold, caller: &Caller, id: &str) -> Told<Option<AssetContent>> {
    let owner = caller.key.as_deref().unwrap_or_default();
    let Some(Found { output, .. }) = outputs::find(state, Some(owner), id).await? else {
        return Ok(None);
    };
    let kept = match &output.source {
        Source::Text(text) => state.assets.keep_bytes(hold, text.clone().into()).await,
        Source::File { folder, subfolder } => {
            let path = state
                .comfy
                .folders()
                .map(|folders| folders.path(*folder, subfolder, &output.name));
            match (path, output.as_file()) {
                (Some(Some(path)), _) => state.assets.keep_file(hold, &path).await,
                (None, Some(file)) => match state.results.content(&file).await {
                    Ok(content) => state.assets.keep_bytes(hold, content).await,
                    Err(error) => {
                        tracing::debug!("an output that a job names is not there: {}", error.full_text());
                        return Ok(None);
                    }
                },
                _ => return Ok(None),
            }
        }
    };
    match kept {
        Ok((hash, bytes)) => Ok(Some(AssetContent {
            id: id.to_owned(),
            hash,
            bytes,
            content_type: content_type(&output).to_owned(),
            file_path: Some(output.name),
            model: None,
        })),
        Err(AssetError::File(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Unmet::from(error)),
    }
}
