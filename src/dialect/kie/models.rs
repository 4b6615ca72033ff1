//! The models that KIE names, and what makes their pictures here.

use super::input::Acceleration;
use crate::echo;
use crate::error::JobError;

/// A model as KIE calls it, with the values that KIE documents for what a request leaves out.
#[derive(Debug, PartialEq)]
pub(super) struct Model {
    pub(super) name: &'static str,
    /// The most images that it takes; 0: it makes pictures from text alone.
    pub(super) images: usize,
    /// With all its steps.
    full: &'static str,
    /// With `acceleration` `regular`.
    regular: &'static str,
    /// With `acceleration` `high`.
    high: &'static str,
    /// [`None`]: the picture has the shape of the image.
    pub(super) size: Option<&'static str>,
    /// [`None`]: those of the template.
    pub(super) steps: Option<u32>,
    /// [`None`]: that of the template.
    pub(super) guidance: Option<f64>,
    /// How much of the image is made again; [`None`]: it is a reference, and the picture is made from noise.
    pub(super) strength: Option<f64>,
    /// What stands in for it, where nobody has its weights.
    pub(super) stand_in: Option<&'static str>,
}

impl Model {
    pub(super) fn template(&self, acceleration: Acceleration) -> &'static str {
        match acceleration {
            Acceleration::None => self.full,
            Acceleration::Regular => self.regular,
            Acceleration::High => self.high,
        }
    }
}

pub(super) const TEXT_TO_IMAGE: Model = Model {
    name: "qwen/text-to-image",
    images: 0,
    full: "qwen-image",
    regular: "qwen-image-lightning",
    high: "qwen-image-lightning-4",
    size: Some("square_hd"),
    steps: Some(30),
    guidance: Some(2.5),
    strength: None,
    stand_in: None,
};

/// The same without `model`, as the specification has it.
pub(super) const GENERATE: Model = Model {
    name: "qwen/generate",
    size: Some("landscape_4_3"),
    guidance: Some(7.5),
    ..TEXT_TO_IMAGE
};

pub(super) const IMAGE_TO_IMAGE: Model = Model {
    name: "qwen/image-to-image",
    images: 1,
    full: "qwen-image-edit",
    // There is no LoRA for eight steps.
    regular: "qwen-image-edit-lightning-4",
    high: "qwen-image-edit-lightning-4",
    size: None,
    steps: Some(30),
    guidance: Some(2.5),
    strength: Some(0.8),
    stand_in: None,
};

pub(super) const IMAGE_EDIT: Model = Model {
    name: "qwen/image-edit",
    size: Some("landscape_4_3"),
    steps: Some(25),
    guidance: Some(4.0),
    strength: None,
    ..IMAGE_TO_IMAGE
};

/// Every model that `createTask` takes.
pub(super) const MODELS: &[Model] = &[
    TEXT_TO_IMAGE,
    IMAGE_TO_IMAGE,
    IMAGE_EDIT,
    Model {
        name: "qwen2/text-to-image",
        images: 0,
        full: "qwen-image-2512",
        regular: "qwen-image-2512-lightning-4",
        high: "qwen-image-2512-lightning-4",
        size: Some("landscape_16_9"),
        steps: None,
        guidance: None,
        strength: None,
        stand_in: Some("Qwen-Image-2512"),
    },
    Model {
        name: "qwen2/image-edit",
        images: 3,
        full: "qwen-image-edit-2511",
        regular: "qwen-image-edit-2511-lightning-4",
        high: "qwen-image-edit-2511-lightning-4",
        size: Some("landscape_16_9"),
        steps: None,
        guidance: None,
        strength: None,
        stand_in: Some("Qwen-Image-Edit-2511"),
    },
];

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    MODELS.iter().map(|model| model.name)
}

/// A request names none.
pub(super) fn missing() -> JobError {
    let names: Vec<_> = names().collect();
    JobError::invalid(format!("`model` is missing; there are {}", names.join(", "))).at("model")
}

/// The model of a request.
pub(super) fn find(name: &str) -> Result<&'static Model, JobError> {
    let name = name.trim();
    MODELS
        .iter()
        .find(|model| model.name.eq_ignore_ascii_case(name))
        .ok_or_else(|| {
            JobError::invalid(format!("The model `{}` is not served here", echo::cut(name)))
                .hint(format!("The models are {}.", names().collect::<Vec<_>>().join(", ")))
                .at("model")
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::Templates;

    #[test]
    fn every_model_has_its_templates() {
        let templates = Templates::embedded().unwrap();
        for model in MODELS.iter().chain([&GENERATE]) {
            for name in [model.full, model.regular, model.high] {
                let template = templates.get(name).unwrap_or_else(|| panic!("{name}"));
                assert_eq!(*template.images().end(), model.images, "{name}");
            }
        }
    }
}
