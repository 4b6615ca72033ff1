//! Stage: what the request says becomes the parameters of a template, which [`Templates::render`] puts into its graph. What
//! the request leaves open is chosen here: the template, the seed, and a size for the aspect ratio.

use crate::error::JobError;
use crate::job::{InputImage, JobId, TemplateRequest};
use crate::workflow::limits::SIZE_STEP;
use crate::workflow::{Graph, Parameters, Templates};

use super::inputs::name_in_comfy;

/// A template that a job has filled.
pub(super) struct Filled {
    /// Its name.
    pub template: String,
    /// What became of it.
    pub graph: Graph,
    /// The seed, where we chose it.
    pub seed: Option<u64>,
}

/// The graph of a job that fills a template.
pub(super) fn graph_of(
    templates: &Templates,
    request: TemplateRequest,
    job: &JobId,
    folder: &str,
    images: &[InputImage],
) -> Result<Filled, JobError> {
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
        denoise,
        batch_size,
        filename_prefix,
        loras,
        mask,
    } = request;
    let (masks, images): (Vec<_>, Vec<_>) = images
        .iter()
        .partition(|image| mask.as_deref() == Some(image.name.as_str()));
    let usual = templates.defaults();
    let usual = if images.is_empty() { usual.generate } else { usual.edit };
    let name = template.as_deref().unwrap_or(usual);
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
        denoise,
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
    if let (Some(megapixels), Some(image)) = (megapixels, images.first()) {
        check_shape(image, megapixels)?;
    }
    Ok(Filled {
        template: name.to_owned(),
        graph,
        seed: chosen_seed,
    })
}

/// Looks whether a picture of so many megapixels, in the shape of the image, has pixels on both sides: they go by whole
/// steps, and ComfyUI finds out only while the graph runs.
fn check_shape(image: &InputImage, megapixels: f64) -> Result<(), JobError> {
    let size = image
        .size()
        .map(|(width, height)| (u32::try_from(width), u32::try_from(height)));
    let Some((Ok(width), Ok(height))) = size else {
        return Ok(());
    };
    let scale = (megapixels * 1024.0 * 1024.0 / (f64::from(width) * f64::from(height))).sqrt();
    // ComfyUI (`ImageScaleToTotalPixels`) rounds, and half a step down.
    if f64::from(width.min(height)) * scale / f64::from(SIZE_STEP) > 0.5 {
        return Ok(());
    }
    let message = format!(
        "megapixels: the image `{}` has {width} x {height} pixels; {megapixels} megapixels in that shape are less than {} pixels on one side",
        image.name,
        SIZE_STEP / 2
    );
    Err(JobError::invalid(message)
        .hint("Crop the image, or ask for more megapixels.")
        .at("megapixels"))
}

/// A seed that fits a JavaScript number, since clients read it back from JSON.
pub(super) fn random_seed() -> Result<u64, JobError> {
    let random =
        getrandom::u64().map_err(|error| JobError::internal(format!("the system gives no random numbers: {error}")))?;
    Ok(random >> 11)
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, ImageFormat};

    use super::*;
    use crate::job::ImageName;

    fn image(width: u32, height: u32) -> InputImage {
        let mut content = std::io::Cursor::new(Vec::new());
        let picture = DynamicImage::new_luma8(width, height);
        picture.write_to(&mut content, ImageFormat::Png).unwrap();
        InputImage::from_bytes(ImageName::parse("a").unwrap(), content.into_inner().into()).unwrap()
    }

    #[test]
    fn a_request_without_a_template_gets_one_that_takes_its_images() {
        let templates = Templates::embedded().unwrap();
        let loads = |images: &[InputImage]| {
            let request = TemplateRequest {
                prompt: "p".to_owned(),
                ..TemplateRequest::default()
            };
            let filled = graph_of(&templates, request, &JobId::new(), "folder", images).unwrap();
            let nodes = filled.graph.nodes.values();
            nodes.filter(|node| node.class_type == "LoadImage").count()
        };
        assert_eq!(loads(&[]), 0);
        assert_eq!(loads(&[image(8, 8)]), 1);
        assert_eq!(loads(&[image(8, 8), image(8, 8)]), 2);
    }

    #[test]
    fn a_shape_that_is_too_thin_is_told() {
        // 0.01 megapixels of 1 to 163 are 8.02 pixels wide, of 1 to 164 7.996.
        for (width, height, megapixels) in [(1, 1, 0.01), (1, 163, 0.01), (163, 1, 0.01), (1, 16_384, 1.1)] {
            assert_eq!(
                check_shape(&image(width, height), megapixels),
                Ok(()),
                "{width} x {height}"
            );
        }
        for (width, height, megapixels) in [(1, 164, 0.01), (164, 1, 0.01), (1, 16_384, 1.0)] {
            let error = check_shape(&image(width, height), megapixels).unwrap_err();
            assert_eq!(error.field.as_deref(), Some("megapixels"));
            assert!(
                error.message.contains(&format!("`a` has {width} x {height} pixels")),
                "{error}"
            );
        }
    }
}
