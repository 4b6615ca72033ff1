//! The values of a graph that are no links: numbers, names from lists, files and models.

use serde_json::Value;

use super::{Checker, MissingModel};
use crate::config::MODEL_EXTENSIONS;
use crate::echo;
use crate::workflow::graph::{Node, kind_of};
use crate::workflow::models::{has_extension, model_folder};
use crate::workflow::schema::{ClassSpec, InputKind, InputSpec, Upload};
use crate::workflow::suggest::{any_of, closest, closest_files};
use crate::workflow::value::{Refused, check_float, check_int};
use crate::workflow::wording::expected;

/// Types of which no constant exists in JSON.
const LINK_ONLY: &[&str] = &[
    "CLIP",
    "CLIP_VISION",
    "CLIP_VISION_OUTPUT",
    "CONDITIONING",
    "CONTROL_NET",
    "IMAGE",
    "LATENT",
    "MASK",
    "MODEL",
    "VAE",
];

/// Extensions that ComfyUI lists as images on every system.
const IMAGE_EXTENSIONS: &[&str] = &[".png", ".jpg", ".jpeg", ".webp"];

impl Checker<'_> {
    pub(super) fn constant(
        &mut self,
        id: &str,
        node: &Node,
        spec: &ClassSpec,
        name: &str,
        input: &InputSpec,
        value: &Value,
    ) {
        let enforced = self.enforced(spec);
        let refused = match &input.kind {
            InputKind::Int { min, max } => check_int(value, *min, *max),
            InputKind::Float { min, max } => check_float(value, *min, *max),
            InputKind::Combo(options) if enforced => {
                if let Some(upload) = input.upload {
                    self.file(id, node, name, upload, options, value);
                } else if !options.iter().any(|option| value.as_str() == Some(&**option)) {
                    self.not_in_list(id, node, name, options, value);
                }
                Ok(())
            }
            // ComfyUI lets it pass and fails at this node; null alone may be meant.
            InputKind::Link(kind) if enforced && input.required && !value.is_null() && LINK_ONLY.contains(&&**kind) => {
                let message = format!("is {}, and takes {}", kind_of(value), expected(&input.kind));
                self.complain(id, node, Some(name), message);
                Ok(())
            }
            _ => Ok(()),
        };
        let message = match refused {
            Err(Refused::Type) => format!("{} is not {}", echo::json(value), expected(&input.kind)),
            Err(Refused::Range(range)) if enforced => {
                format!("{} is out of range: it must be {range}", echo::json(value))
            }
            Err(Refused::Range(_)) | Ok(()) => return,
        };
        self.complain(id, node, Some(name), message);
    }

    /// A file of ComfyUI's input folder. The list holds the files of one kind at its top, and ComfyUI takes any file
    /// that exists, so only a plain image name that is not in a list of images is certainly missing.
    fn file(&mut self, id: &str, node: &Node, name: &str, upload: Upload, options: &[Box<str>], value: &Value) {
        let Some(file) = value.as_str() else {
            if upload == Upload::Image {
                let message = format!("is {}, and takes the name of an image", kind_of(value));
                self.complain(id, node, Some(name), message);
            }
            return;
        };
        let plain = upload == Upload::Image && !file.contains(['/', '\\']) && has_extension(file, IMAGE_EXTENSIONS);
        if !plain || options.iter().any(|option| **option == *file) {
            return;
        }
        let mut message = format!(
            "there is no file {} in ComfyUI's input folder: send it in `images`",
            echo::json(value)
        );
        let likely = closest_files(file, options.iter().map(|option| &**option), self.suggestions());
        if !likely.is_empty() {
            message = format!("{message}, or did you mean {}?", any_of(&likely));
        }
        self.outdated.insert(node.class_type.clone());
        self.complain(id, node, Some(name), message);
    }

    fn not_in_list(&mut self, id: &str, node: &Node, name: &str, options: &[Box<str>], value: &Value) {
        self.outdated.insert(node.class_type.clone());
        let names = || options.iter().map(|option| &**option);
        if let Value::String(wanted) = value {
            let folder = model_folder(&node.class_type, name);
            if folder.is_some() || has_extension(wanted, MODEL_EXTENSIONS) {
                let message = self.missing_model(wanted, folder, options);
                self.missing_models.push(MissingModel {
                    folder,
                    name: wanted.clone(),
                });
                self.complain(id, node, Some(name), message);
                return;
            }
        }
        let likely = match value {
            Value::String(wanted) => closest(wanted, names(), self.suggestions()),
            _ => Vec::new(),
        };
        let all: Vec<_> = names().collect();
        let advice = if !likely.is_empty() {
            format!("did you mean {}?", any_of(&likely))
        } else if all.is_empty() {
            "there are none to choose from".to_owned()
        } else if all.len() <= 20 {
            format!("it may be {}", any_of(&all))
        } else {
            format!("it may be {} and {} more", any_of(&all[..8]), all.len() - 8)
        };
        let message = format!("{} is not one of its values: {advice}", echo::json(value));
        self.complain(id, node, Some(name), message);
    }

    /// Which file is missing, where it belongs, what is there instead, where it can be had.
    fn missing_model(&self, wanted: &str, folder: Option<&str>, options: &[Box<str>]) -> String {
        let known = self.models.lookup(wanted);
        let folder = folder.or(known.map(|file| file.folder.as_str()));
        let place = folder.map_or_else(|| "the models folder".to_owned(), |folder| format!("models/{folder}"));
        let mut message = format!("{} is not installed in {place}", echo::json(&Value::from(wanted)));
        let likely = closest_files(wanted, options.iter().map(|option| &**option), self.suggestions());
        if !likely.is_empty() {
            message = format!("{message}; closest installed: {}", any_of(&likely));
        } else if options.is_empty() {
            message.push_str("; nothing is");
        }
        if let Some(file) = known {
            message = format!("{message}; it can be had from {}", file.url());
        }
        message
    }
}
