//! Stage: the request becomes a graph.

use crate::error::JobError;
use crate::job::{InputImage, JobId, TemplateRequest, Work};
use crate::workflow::template::DEFAULT_TEMPLATE;
use crate::workflow::{Graph, Parameters, Templates};

use super::inputs::name_in_comfy;

/// A graph, and the seed where we chose it.
#[derive(Debug)]
pub(super) struct Rendered {
    pub(super) graph: Graph,
    pub(super) chosen_seed: Option<u64>,
}

pub(super) fn render(
    templates: &Templates,
    work: Work,
    job: &JobId,
    folder: &str,
    images: &[InputImage],
) -> Result<Rendered, JobError> {
    let request = match work {
        Work::Workflow(graph) => {
            return Ok(Rendered {
                graph,
                chosen_seed: None,
            });
        }
        Work::Template(request) => request,
    };
    let TemplateRequest {
        template,
        prompt,
        negative_prompt,
        seed,
        width,
        height,
        megapixels,
        aspect_ratio,
        steps,
        cfg,
        batch_size,
        filename_prefix,
        loras,
        mask,
    } = request;
    let (masks, images): (Vec<_>, Vec<_>) = images
        .iter()
        .partition(|image| mask.as_deref() == Some(image.name.as_str()));
    let name = template.as_deref().unwrap_or(DEFAULT_TEMPLATE);
    let chosen_seed = if seed.is_none() { Some(random_seed()?) } else { None };
    // The ratio was checked when the request was read; a template may have a size of its own for it.
    let ratio = aspect_ratio.as_deref().map(|ratio| {
        templates
            .find(name)
            .map(|template| template.size_for_aspect_ratio(ratio))
    });
    let ratio = ratio.transpose()?.flatten();
    let parameters = Parameters {
        prompt,
        negative_prompt,
        seed: seed.or(chosen_seed).unwrap_or_default(),
        steps,
        cfg,
        width: width.or(ratio.map(|(width, _)| width)),
        height: height.or(ratio.map(|(_, height)| height)),
        megapixels,
        batch_size,
        filename_prefix: filename_prefix.map(|prefix| prefix.replace("{job_id}", job.as_str())),
        loras,
        images: images.iter().map(|image| name_in_comfy(folder, &image.name)).collect(),
        mask: masks.first().map(|mask| name_in_comfy(folder, &mask.name)),
        ..Parameters::default()
    };
    let graph = templates.render(name, &parameters)?;
    Ok(Rendered { graph, chosen_seed })
}

/// A seed that fits a JavaScript number, since clients read it back from JSON.
fn random_seed() -> Result<u64, JobError> {
    let random =
        getrandom::u64().map_err(|error| JobError::internal(format!("the system gives no random numbers: {error}")))?;
    Ok(random >> 11)
}
