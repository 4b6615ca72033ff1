//! The names of models, and the templates behind them.

use crate::error::{ErrorKind, JobError};

/// A model as its makers call it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) id: &'static str,
    /// The most images that it takes; 0: it makes pictures from text alone.
    pub(super) images: usize,
    /// With the Lightning LoRA of the fewest steps.
    draft: &'static str,
    /// With the Lightning LoRA, as requests get it that ask for nothing else.
    usual: &'static str,
    /// With all its steps.
    full: &'static str,
}

/// How much work goes into a picture: `quality` of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quality {
    /// Four steps.
    Low,
    /// Eight steps, or four where there is no LoRA for eight.
    Medium,
    /// All steps, with guidance.
    High,
}

impl Quality {
    /// OpenAI's word for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

impl Model {
    /// The template for a quality.
    pub(super) fn template(&self, quality: Quality) -> &'static str {
        match quality {
            Quality::Low => self.draft,
            Quality::Medium => self.usual,
            Quality::High => self.full,
        }
    }
}

/// Every model. The first one makes pictures from text, the last one from pictures, where a request names none.
pub(super) const MODELS: &[Model; 5] = &[
    Model {
        id: "Qwen/Qwen-Image",
        images: 0,
        draft: "qwen-image-lightning-4",
        usual: "qwen-image-lightning",
        full: "qwen-image",
    },
    Model {
        id: "Qwen/Qwen-Image-2512",
        images: 0,
        draft: "qwen-image-2512-lightning-4",
        usual: "qwen-image-2512-lightning-4",
        full: "qwen-image-2512",
    },
    Model {
        id: "Qwen/Qwen-Image-Edit",
        images: 1,
        draft: "qwen-image-edit-lightning-4",
        usual: "qwen-image-edit-lightning-4",
        full: "qwen-image-edit",
    },
    Model {
        id: "Qwen/Qwen-Image-Edit-2509",
        images: 3,
        draft: "qwen-image-edit-2509-lightning-4",
        usual: "qwen-image-edit-2509-lightning-4",
        full: "qwen-image-edit-2509",
    },
    Model {
        id: "Qwen/Qwen-Image-Edit-2511",
        images: 3,
        draft: "qwen-image-edit-2511-lightning-4",
        usual: "qwen-image-edit-2511-lightning-4",
        full: "qwen-image-edit-2511",
    },
];

/// OpenAI's own models, whose names applications have built in: they stand for ours.
pub(super) const STAND_INS: &[&str] = &[
    "gpt-image-1",
    "gpt-image-1-mini",
    "gpt-image-1.5",
    "gpt-image-2",
    "chatgpt-image-latest",
    "dall-e-2",
    "dall-e-3",
];

/// The id of a model by one of its names: whole or without its maker, in any case.
pub(super) fn canonical(name: &str) -> Result<&'static str, JobError> {
    let name = name.trim();
    let own = MODELS.iter().map(|model| model.id).find(|id| {
        let short = id.rsplit('/').next().unwrap_or_default();
        id.eq_ignore_ascii_case(name) || short.eq_ignore_ascii_case(name)
    });
    let stand_in = || STAND_INS.iter().find(|id| id.eq_ignore_ascii_case(name)).copied();
    own.or_else(stand_in).ok_or_else(|| unknown(name))
}

/// There is no such model.
pub(super) fn unknown(name: &str) -> JobError {
    let names: Vec<_> = MODELS.iter().map(|model| model.id).collect();
    let name: String = name.chars().take(80).collect();
    JobError::new(ErrorKind::NotFound, format!("The model `{name}` does not exist"))
        .hint(format!("The models are {}.", names.join(", ")))
        .at("model")
}

/// The model of a request.
pub(super) fn find(name: Option<&str>, with_images: bool) -> Result<&'static Model, JobError> {
    let [from_text, .., from_pictures] = MODELS;
    let usual = if with_images { from_pictures } else { from_text };
    let model = match name.filter(|name| !name.trim().is_empty()) {
        None => usual,
        Some(name) => {
            let id = canonical(name)?;
            // A stand-in has no entry of its own.
            MODELS.iter().find(|model| model.id == id).unwrap_or(usual)
        }
    };
    if with_images && model.images == 0 {
        let error = JobError::invalid(format!(
            "{} makes pictures from text alone and takes no image",
            model.id
        ));
        return Err(error
            .hint("Ask for Qwen/Qwen-Image-Edit-2511, or leave the image out.")
            .at("model"));
    }
    if !with_images && model.images > 0 {
        let error = JobError::invalid(format!("`image` is missing: {} edits pictures", model.id));
        return Err(error.hint("Send an image, or ask for Qwen/Qwen-Image.").at("image"));
    }
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::Templates;

    #[test]
    fn every_model_has_its_templates() {
        let templates = Templates::embedded().unwrap();
        for model in MODELS {
            for name in [model.draft, model.usual, model.full] {
                let template = templates.get(name).unwrap_or_else(|| panic!("{name}"));
                assert_eq!(*template.images().end(), model.images, "{name}");
            }
        }
    }

    #[test]
    fn models_are_found_by_any_of_their_names() {
        let id = |name: Option<&str>, images| find(name, images).map(|model| model.id).map_err(|error| error.field);
        assert_eq!(id(None, false), Ok("Qwen/Qwen-Image"));
        assert_eq!(id(Some(" "), true), Ok("Qwen/Qwen-Image-Edit-2511"));
        assert_eq!(id(Some("gpt-image-1"), true), Ok("Qwen/Qwen-Image-Edit-2511"));
        assert_eq!(id(Some("dall-e-3"), false), Ok("Qwen/Qwen-Image"));
        assert_eq!(id(Some("qwen-image-2512"), false), Ok("Qwen/Qwen-Image-2512"));
        assert_eq!(id(Some("Qwen/Qwen-Image-Edit"), true), Ok("Qwen/Qwen-Image-Edit"));
        assert_eq!(id(Some("Qwen/Qwen-Image-Edit"), false), Err(Some("image".into())));
        assert_eq!(id(Some("Qwen/Qwen-Image"), true), Err(Some("model".into())));
        assert_eq!(id(Some("sdxl"), true), Err(Some("model".into())));
        assert_eq!(canonical("DALL-E-3").ok(), Some("dall-e-3"));
        assert_eq!(canonical("qwen-image-edit").ok(), Some("Qwen/Qwen-Image-Edit"));
    }
}
