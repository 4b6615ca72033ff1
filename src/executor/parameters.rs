//! Stage: what the request says becomes the parameters of a template, which [`Templates::render`] puts into its graph. What
//! the request leaves open is chosen here: the template, the seed, and a size for the aspect ratio.

use crate::error::JobError;
use crate::job::{InputImage, JobId, TemplateRequest};
use crate::workflow::control::DEFAULT_CONTROL_TEMPLATE;
use crate::workflow::limits::MEGAPIXEL;
use crate::workflow::{Graph, Parameters, Preprocessor, Template, Templates};

use super::inputs::name_in_comfy;

/// The template of a request: the one that it names, or the usual one for what it brings.
pub fn template_of<'a>(templates: &Templates, request: &'a TemplateRequest, images: &[InputImage]) -> &'a str {
    let usual = templates.defaults();
    let usual = if request.control.is_some() {
        DEFAULT_CONTROL_TEMPLATE
    } else if images.iter().any(|image| request.is_worked_from(image)) {
        usual.edit
    } else {
        usual.generate
    };
    request.template.as_deref().unwrap_or(usual)
}

/// The graph of a job that fills a template. `preprocessor` draws its control picture.
pub(super) fn graph_of(
    templates: &Templates,
    template: &Template,
    request: TemplateRequest,
    job: &JobId,
    folder: &str,
    images: &[InputImage],
    preprocessor: Option<Preprocessor>,
) -> Result<Graph, JobError> {
    let (images, others): (Vec<_>, Vec<_>) = images.iter().partition(|image| request.is_worked_from(image));
    let TemplateRequest {
        template: _,
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
        layers,
        filename_prefix,
        loras,
        mask,
        control,
    } = request;
    let named = |name: &str| others.iter().copied().find(|image| image.name.as_str() == name);
    let control_picture = control.as_ref().and_then(|control| named(control.image.as_deref()?));
    let in_comfy = |image: &InputImage| name_in_comfy(folder, &image.name);
    // The control picture is the first of the images that the template loads.
    let loaded = control_picture.into_iter().chain(images.iter().copied()).map(in_comfy);
    // The ratio was checked when the request was read; a template may have a size of its own for it.
    let ratio = aspect_ratio.as_deref();
    let ratio = ratio.and_then(|ratio| template.size_for_aspect_ratio(ratio));
    let (width, height) = (
        width.or(ratio.map(|(width, _)| width)),
        height.or(ratio.map(|(_, height)| height)),
    );
    let first = control_picture.or(images.first().copied());
    let is_asked = width.is_some() || height.is_some() || megapixels.is_some();
    let megapixels = megapixels.or_else(|| {
        template
            .most_megapixels()
            .filter(|most| !is_asked && is_larger(first, *most))
    });
    let parameters = Parameters {
        prompt,
        negative_prompt,
        seed: seed.unwrap_or_default(),
        steps,
        cfg,
        denoise,
        width,
        height,
        megapixels,
        batch_size,
        layers,
        mask: mask.as_deref().and_then(named).map(in_comfy),
        images: loaded.collect(),
        control,
        preprocessor,
        filename_prefix: filename_prefix.map(|prefix| prefix.replace("{job_id}", job.as_str())),
        loras,
        ..Parameters::default()
    };
    let graph = templates.render(template.name(), &parameters)?;
    if let (Some(megapixels), Some(image)) = (megapixels, first) {
        check_shape(image, megapixels, template.step())?;
    }
    Ok(graph)
}

/// Width and height in pixels, where the image tells them.
fn size_of(image: &InputImage) -> Option<(u32, u32)> {
    let (width, height) = image.size()?;
    Some((u32::try_from(width).ok()?, u32::try_from(height).ok()?))
}

fn is_larger(image: Option<&InputImage>, megapixels: f64) -> bool {
    let size = image.and_then(size_of);
    size.is_some_and(|(width, height)| f64::from(width) * f64::from(height) > megapixels * MEGAPIXEL)
}

/// Looks whether a picture of so many megapixels, in the shape of the image, has pixels on both sides: they go by whole
/// steps, and ComfyUI finds out only while the graph runs.
fn check_shape(image: &InputImage, megapixels: f64, step: u32) -> Result<(), JobError> {
    let Some((width, height)) = size_of(image) else {
        return Ok(());
    };
    let scale = (megapixels * MEGAPIXEL / (f64::from(width) * f64::from(height))).sqrt();
    // ComfyUI (`ImageScaleToTotalPixels`) rounds, and half a step down.
    if f64::from(width.min(height)) * scale / f64::from(step) > 0.5 {
        return Ok(());
    }
    let message = format!(
        "megapixels: the image `{}` has {width} x {height} pixels; {megapixels} megapixels in that shape are less than {} pixels on one side",
        image.name,
        step / 2
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
            let template = templates.find(template_of(&templates, &request, images)).unwrap();
            let graph = graph_of(&templates, template, request, &JobId::new(), "folder", images, None).unwrap();
            let nodes = graph.nodes.values();
            nodes.filter(|node| node.class_type == "LoadImage").count()
        };
        assert_eq!(loads(&[]), 0);
        assert_eq!(loads(&[image(8, 8)]), 1);
        assert_eq!(loads(&[image(8, 8), image(8, 8)]), 2);
    }

    #[test]
    fn a_picture_that_is_too_large_for_its_template_is_scaled_down() {
        let templates = Templates::embedded().unwrap();
        let scaled = |width, height, asked: Option<f64>| {
            let request = TemplateRequest {
                template: Some("qwen-image-2.1-edit".to_owned()),
                megapixels: asked,
                ..TemplateRequest::default()
            };
            let template = templates.find("qwen-image-2.1-edit").unwrap();
            let images = [image(width, height)];
            let graph = graph_of(&templates, template, request, &JobId::new(), "folder", &images, None).unwrap();
            let mut nodes = graph.nodes.values();
            let scale = nodes.find(|node| node.class_type == "ImageScaleToTotalPixels")?;
            scale.inputs["megapixels"].as_f64()
        };
        assert_eq!(scaled(2048, 2048, None), None);
        assert_eq!(scaled(4032, 3024, None), Some(4.0));
        assert_eq!(scaled(4032, 3024, Some(1.0)), Some(1.0));
    }

    #[test]
    fn a_shape_that_is_too_thin_is_told() {
        // 0.01 megapixels of 1 to 163 are 8.02 pixels wide, of 1 to 164 7.996.
        for (width, height, megapixels) in [(1, 1, 0.01), (1, 163, 0.01), (163, 1, 0.01), (1, 16_384, 1.1)] {
            assert_eq!(
                check_shape(&image(width, height), megapixels, 16),
                Ok(()),
                "{width} x {height}"
            );
        }
        for (width, height, megapixels) in [(1, 164, 0.01), (164, 1, 0.01), (1, 16_384, 1.0)] {
            let error = check_shape(&image(width, height), megapixels, 16).unwrap_err();
            assert_eq!(error.field.as_deref(), Some("megapixels"));
            assert!(
                error.message.contains(&format!("`a` has {width} x {height} pixels")),
                "{error}"
            );
        }
    }
}
