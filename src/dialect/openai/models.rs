//! The names of models, and the templates behind them.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;

use crate::echo::cut;
use crate::error::{ErrorKind, JobError};

/// A model as its makers call it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) id: &'static str,
    /// The most images that it takes; 0: it makes pictures from text alone.
    pub(super) images: usize,
    /// Whether it takes an image only together with a mask, and fills in what that marks.
    fills_in: bool,
    /// Whether its pictures have transparency that counts.
    pub(super) alpha: bool,
    /// With the Lightning LoRA of the fewest steps.
    draft: &'static str,
    /// With the Lightning LoRA, as requests get it that ask for nothing else.
    usual: &'static str,
    /// With all its steps.
    full: &'static str,
}

/// How much work goes into a picture: `quality` of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Quality {
    /// Four steps.
    Low,
    /// Eight steps, or four where there is no LoRA for eight.
    Medium,
    /// All steps, with guidance.
    High,
}

impl Model {
    /// One that has a template for each quality.
    const fn new(id: &'static str, images: usize, [draft, usual, full]: [&'static str; 3]) -> Self {
        Self {
            id,
            images,
            fills_in: false,
            alpha: false,
            draft,
            usual,
            full,
        }
    }

    /// One that has one template.
    const fn with_one(id: &'static str, images: usize, template: &'static str) -> Self {
        Self::new(id, images, [template; 3])
    }

    /// Who made it, in small letters.
    pub(super) fn owner(&self) -> &'static str {
        if self.id.starts_with("Tongyi-MAI/") {
            "tongyi-mai"
        } else {
            "qwen"
        }
    }

    /// The template for a quality.
    pub(super) fn template(&self, quality: Quality) -> &'static str {
        match quality {
            Quality::Low => self.draft,
            Quality::Medium => self.usual,
            Quality::High => self.full,
        }
    }
}

/// Every model. The first one makes pictures from text, the last one from pictures, where a request names none. One that does
/// both, or that fills in, stands here once for each.
pub(super) const MODELS: &[Model; 14] = &[
    Model::new(
        "Qwen/Qwen-Image",
        0,
        ["qwen-image-lightning-4", "qwen-image-lightning", "qwen-image"],
    ),
    Model {
        fills_in: true,
        ..Model::with_one("Qwen/Qwen-Image", 1, "qwen-image-inpaint")
    },
    Model::new(
        "Qwen/Qwen-Image-2512",
        0,
        [
            "qwen-image-2512-lightning-4",
            "qwen-image-2512-lightning-4",
            "qwen-image-2512",
        ],
    ),
    Model::with_one("Qwen/Qwen-Image-2.1", 0, "qwen-image-2.1"),
    Model::with_one("Qwen/Qwen-Image-2.1", 16, "qwen-image-2.1-edit"),
    Model::with_one("Qwen/Qwen-Image-2.1-Turbo", 0, "qwen-image-2.1-turbo"),
    Model::with_one("Qwen/Qwen-Image-2.1-Turbo", 16, "qwen-image-2.1-turbo-edit"),
    Model {
        alpha: true,
        ..Model::with_one("Qwen/Qwen-Image-Layered", 0, "qwen-image-layered-text")
    },
    Model {
        alpha: true,
        ..Model::with_one("Qwen/Qwen-Image-Layered", 1, "qwen-image-layered")
    },
    Model::with_one("Tongyi-MAI/Z-Image", 0, "z-image"),
    Model::with_one("Tongyi-MAI/Z-Image-Turbo", 0, "z-image-turbo"),
    Model::new(
        "Qwen/Qwen-Image-Edit",
        1,
        [
            "qwen-image-edit-lightning-4",
            "qwen-image-edit-lightning-4",
            "qwen-image-edit",
        ],
    ),
    Model::new(
        "Qwen/Qwen-Image-Edit-2509",
        3,
        [
            "qwen-image-edit-2509-lightning-4",
            "qwen-image-edit-2509-lightning-4",
            "qwen-image-edit-2509",
        ],
    ),
    Model::new(
        "Qwen/Qwen-Image-Edit-2511",
        3,
        [
            "qwen-image-edit-2511-lightning-4",
            "qwen-image-edit-2511-lightning-4",
            "qwen-image-edit-2511",
        ],
    ),
];

/// Every model once, whatever it does.
pub(super) fn each() -> impl Iterator<Item = &'static Model> {
    let mut seen = "";
    MODELS
        .iter()
        .filter(move |model| std::mem::replace(&mut seen, model.id) != model.id)
}

/// How a request asks for a template.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = OpenAiModel)]
pub struct AskedAs {
    model: &'static str,
    quality: Quality,
}

/// The model and quality behind which a template stands.
pub fn asked_as(template: &str) -> Option<AskedAs> {
    // The usual one first: it has both qualities where there is no LoRA for eight steps.
    let qualities = [Quality::Medium, Quality::Low, Quality::High];
    MODELS.iter().find_map(|model| {
        let quality = qualities
            .into_iter()
            .find(|quality| model.template(*quality) == template)?;
        Some(AskedAs {
            model: model.id,
            quality,
        })
    })
}

/// OpenAI's own models, whose names applications have built in: they stand for ours. Those of [`GPT_IMAGE`] do so in every
/// version, listed here or not.
pub(super) const STAND_INS: &[&str] = &[
    "gpt-image-1",
    "gpt-image-1-mini",
    "gpt-image-1.5",
    "gpt-image-2",
    "chatgpt-image-latest",
    "dall-e-2",
    "dall-e-3",
];

/// What the names of OpenAI's models since DALL-E begin with.
const GPT_IMAGE: [&str; 2] = ["gpt-image-", "chatgpt-image-"];
/// The longest name of one, in bytes: far longer than there are.
const LONGEST_NAME: usize = 64;

/// Whose name a model is asked for by: what its pictures come as goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// The makers' own name, or none.
    Own,
    /// One of [`GPT_IMAGE`].
    GptImage,
    /// DALL-E's.
    DallE,
}

/// What a name stands for: a model of ours, or, for [`None`], the usual one.
type Named = (Option<&'static Model>, Family);

/// The model of a name, which may be whole or without its maker, in any case.
fn named(name: &str) -> Option<Named> {
    let name = name.trim();
    let own = MODELS.iter().find(|model| {
        let short = model.id.rsplit('/').next().unwrap_or_default();
        model.id.eq_ignore_ascii_case(name) || short.eq_ignore_ascii_case(name)
    });
    if own.is_some() {
        return Some((own, Family::Own));
    }
    if name.len() > LONGEST_NAME {
        return None;
    }
    let name = name.to_ascii_lowercase();
    // As gateways write it.
    let name = name.strip_prefix("openai/").unwrap_or(&name);
    let version = GPT_IMAGE.iter().find_map(|begin| name.strip_prefix(begin));
    let is_version = |rest: &str| {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        !rest.is_empty() && rest.bytes().all(is_fit)
    };
    match version {
        Some(version) if is_version(version) => Some((None, Family::GptImage)),
        _ if STAND_INS.contains(&name) => Some((None, Family::DallE)),
        _ => None,
    }
}

/// The id of a model by one of its names, as `/v1/models` writes it.
pub(super) fn canonical(name: &str) -> Result<Cow<'static, str>, JobError> {
    match named(name) {
        Some((Some(model), _)) => Ok(Cow::Borrowed(model.id)),
        Some((None, _)) => Ok(Cow::Owned(name.trim().to_ascii_lowercase())),
        None => Err(unknown(name)),
    }
}

/// There is no such model.
fn unknown(name: &str) -> JobError {
    let names: Vec<_> = each().map(|model| model.id).collect();
    JobError::new(
        ErrorKind::NotFound,
        format!("The model `{}` does not exist", cut(name.trim())),
    )
    .hint(format!(
        "The models are {}; gpt-image-… and dall-e-… stand for the usual one.",
        names.join(", ")
    ))
    .at("model")
}

/// The model of a request, and whose name it was asked for by.
pub(super) fn find(
    name: Option<&str>,
    with_images: bool,
    with_mask: bool,
) -> Result<(&'static Model, Family), JobError> {
    let [from_text, .., from_pictures] = MODELS;
    let usual = if with_images { from_pictures } else { from_text };
    let (model, family) = match name.filter(|name| !name.trim().is_empty()) {
        None => (None, Family::Own),
        Some(name) => named(name).ok_or_else(|| unknown(name))?,
    };
    let model = model.unwrap_or(usual);
    let fits =
        |other: &&Model| other.id == model.id && (other.images > 0) == with_images && (with_mask || !other.fills_in);
    let model = MODELS.iter().find(fits).unwrap_or(model);
    if with_images && model.images == 0 {
        let error = JobError::invalid(format!(
            "{} makes pictures from text alone and takes no image",
            model.id
        ));
        let fills_in = MODELS.iter().any(|other| other.id == model.id && other.fills_in);
        let or = if fills_in {
            ", or send a `mask` of what is to be filled in"
        } else {
            ""
        };
        return Err(error
            .hint(format!(
                "Ask for Qwen/Qwen-Image-Edit-2511, or leave the image out{or}."
            ))
            .at("model"));
    }
    if !with_images && model.images > 0 {
        let error = JobError::invalid(format!("`image` is missing: {} edits pictures", model.id));
        return Err(error.hint("Send an image, or ask for Qwen/Qwen-Image.").at("image"));
    }
    Ok((model, family))
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
                assert_eq!(template.needs_mask(), model.fills_in, "{name}");
                assert_eq!(template.has_alpha(), model.alpha, "{name}");
            }
        }
    }

    #[test]
    fn models_are_found_by_any_of_their_names() {
        let id = |name: Option<&str>, images| {
            find(name, images, false)
                .map(|(model, _)| model.id)
                .map_err(|error| error.field)
        };
        assert_eq!(id(None, false), Ok("Qwen/Qwen-Image"));
        assert_eq!(id(Some(" "), true), Ok("Qwen/Qwen-Image-Edit-2511"));
        assert_eq!(id(Some("gpt-image-1"), true), Ok("Qwen/Qwen-Image-Edit-2511"));
        assert_eq!(id(Some("dall-e-3"), false), Ok("Qwen/Qwen-Image"));
        assert_eq!(id(Some("qwen-image-2512"), false), Ok("Qwen/Qwen-Image-2512"));
        assert_eq!(id(Some("Qwen/Qwen-Image-Edit"), true), Ok("Qwen/Qwen-Image-Edit"));
        assert_eq!(id(Some("Qwen/Qwen-Image-Edit"), false), Err(Some("image".into())));
        assert_eq!(id(Some("Qwen/Qwen-Image"), true), Err(Some("model".into())));
        assert_eq!(id(Some("sdxl"), true), Err(Some("model".into())));
        assert_eq!(canonical("DALL-E-3").ok().as_deref(), Some("dall-e-3"));
        assert_eq!(
            canonical("qwen-image-edit").ok().as_deref(),
            Some("Qwen/Qwen-Image-Edit")
        );
    }

    #[test]
    fn a_model_of_several_templates_is_chosen_by_what_comes() {
        let template = |name: &str, images, mask| {
            let found = find(Some(name), images, mask).map_err(|error| error.full_text());
            found.map(|(model, _)| model.template(Quality::Medium))
        };
        for (name, images, mask, expected) in [
            ("Qwen/Qwen-Image", false, false, "qwen-image-lightning"),
            ("Qwen/Qwen-Image", true, true, "qwen-image-inpaint"),
            ("Qwen/Qwen-Image-Layered", false, false, "qwen-image-layered-text"),
            ("qwen-image-layered", true, false, "qwen-image-layered"),
            ("Qwen/Qwen-Image-2.1", false, false, "qwen-image-2.1"),
            ("Qwen/Qwen-Image-2.1", true, false, "qwen-image-2.1-edit"),
            ("Tongyi-MAI/Z-Image-Turbo", false, false, "z-image-turbo"),
            ("z-image", false, false, "z-image"),
            (
                "Qwen/Qwen-Image-Edit-2511",
                true,
                true,
                "qwen-image-edit-2511-lightning-4",
            ),
            ("gpt-image-1", true, true, "qwen-image-edit-2511-lightning-4"),
        ] {
            assert_eq!(template(name, images, mask), Ok(expected), "{name} {images} {mask}");
        }
        let error = template("Qwen/Qwen-Image", true, false).unwrap_err();
        assert!(error.contains("or send a `mask`"), "{error}");
        assert_eq!(each().count(), 10);
    }

    #[test]
    fn every_version_of_openais_models_stands_for_the_usual_one() {
        let family = |name: &str| find(Some(name), false, false).map(|(_, family)| family).ok();
        for name in [
            "gpt-image-1",
            "gpt-image-2-2026-04-21",
            "gpt-image-2.5-flare",
            "gpt-image-9.9-anything",
            "chatgpt-image-latest",
            "chatgpt-image-3",
            "GPT-Image-1",
            "openai/gpt-image-1",
        ] {
            assert_eq!(family(name), Some(Family::GptImage), "{name}");
            assert_eq!(canonical(name).unwrap(), name.to_ascii_lowercase());
        }
        assert_eq!(family("dall-e-2"), Some(Family::DallE));
        assert_eq!(family("Qwen/Qwen-Image"), Some(Family::Own));
        let long = format!("gpt-image-{}", "1".repeat(1_000_000));
        for name in ["gpt-image-", "gpt-image", "gpt-4o", "gpt-image-1\nx", "dall-e-4", &long] {
            let error = find(Some(name), false, false).unwrap_err();
            assert!(error.full_text().len() < 500, "{}", error.full_text());
            assert_eq!(error.field.as_deref(), Some("model"));
        }
    }
}
