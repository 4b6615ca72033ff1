//! The values of a graph that are no links: numbers, names from lists, files and models.

use serde_json::Value;

use super::{Checker, MissingModel, faults};
use crate::config::MODEL_EXTENSIONS;
use crate::echo;
use crate::workflow::file_input::Content;
use crate::workflow::graph::{Node, kind_of};
use crate::workflow::models::{has_extension, model_folder};
use crate::workflow::schema::{ClassSpec, InputKind, InputSpec, Upload};
use crate::workflow::value::{Refused, check_float, check_int};
use crate::workflow::wording::{any_of, closest, closest_files, expected, file_name};

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

/// What to do with a file that stands where its name should, and that was not taken. A job's own are, before its graph is
/// checked: what comes here came by ComfyUI's own API.
const NOT_TAKEN: &str = "upload the file by `/upload/image` and write its name here, or send the graph to `/runsync`, which takes files in place of names";

/// The longest name of a file, and the longest path, in bytes.
const LONGEST_NAME: usize = 255;
const LONGEST_PATH: usize = 4096;

/// The text, if it is longer than any file name can be.
fn no_file_name(value: &Value) -> Option<&str> {
    let text = value.as_str()?;
    (text.len() > LONGEST_NAME && (has_no_end(value) || text.split(['/', '\\']).any(|part| part.len() > LONGEST_NAME)))
        .then_some(text)
}

fn has_no_end(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() > LONGEST_PATH)
}

/// What is wrong with a text that is a file, or leads to one, where the name of an uploaded one should stand.
fn content_for_a_name(text: &str) -> Option<String> {
    let is = match Content::of(text)? {
        Content::DataUri => "is a data URI, and the input takes a name",
        Content::Address => "is an address, and the input takes a name",
        Content::Base64 => "looks like base64, and the input takes a name",
    };
    Some(format!("{} {is}: {NOT_TAKEN}", echo::json(&Value::from(text))))
}

fn is_seed(input: &str) -> bool {
    input == "seed" || input.ends_with("_seed")
}

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
        // Custom nodes may check it by code of their own.
        let enforced = spec.core;
        let refused = match &input.kind {
            InputKind::Int { min, max } => check_int(value, *min, *max),
            InputKind::Float { min, max } => check_float(value, *min, *max),
            // Before anything is compared with it.
            InputKind::Combo(options) if (enforced && no_file_name(value).is_some()) || has_no_end(value) => {
                if !options.iter().any(|option| value.as_str() == Some(&**option)) {
                    self.too_long(id, node, spec, name, value);
                }
                Ok(())
            }
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
                let fault = faults::custom(name, &message);
                self.complain((id, node), name, message, fault);
                Ok(())
            }
            _ => Ok(()),
        };
        let message = match &refused {
            Err(Refused::Type) => format!("{} is not {}", echo::json(value), expected(&input.kind)),
            Err(Refused::Range(range)) if enforced => {
                let said = format!("{} is out of range: it must be {range}", echo::json(value));
                if is_seed(name) && value.as_f64() == Some(-1.0) {
                    format!(
                        "{said}. There is no random seed in a graph: the page draws a number before it sends one. Write a number, another for each picture"
                    )
                } else {
                    said
                }
            }
            Err(Refused::Range(_)) | Ok(()) => return,
        };
        let fault = faults::number(name, input, value, &refused);
        self.complain((id, node), name, message, fault);
    }

    /// A file of ComfyUI's input folder. The list holds the files of one kind at its top, and ComfyUI takes any file
    /// that exists, so only a plain image name that is not in a list of images is certainly missing.
    fn file(&mut self, id: &str, node: &Node, name: &str, upload: Upload, options: &[Box<str>], value: &Value) {
        let Some(file) = value.as_str() else {
            if upload == Upload::Image {
                let message = format!("is {}, and takes the name of an image", kind_of(value));
                let fault = faults::custom(name, &message);
                self.complain((id, node), name, message, fault);
            }
            return;
        };
        if let Some(message) = content_for_a_name(file) {
            let fault = faults::custom(name, &message);
            self.complain((id, node), name, message, fault);
            return;
        }
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
        let fault = faults::custom(name, &format!("Invalid image file: {}", echo::cut(file)));
        self.complain((id, node), name, message, fault);
    }

    /// A text that is longer than any file's name, where the name of a file or of something else is meant.
    fn too_long(&mut self, id: &str, node: &Node, spec: &ClassSpec, name: &str, value: &Value) {
        let text = value.as_str().unwrap_or_default();
        let takes_upload = spec.inputs.get(name).is_some_and(|input| input.upload.is_some());
        let message = takes_upload.then(|| content_for_a_name(text)).flatten().unwrap_or_else(|| {
            format!(
                "{} has {} bytes, which is longer than any name: name a file that is there, or one of the input's values",
                echo::json(value),
                text.len()
            )
        });
        let fault = faults::custom(name, &message);
        self.complain((id, node), name, message, fault);
    }

    fn not_in_list(&mut self, id: &str, node: &Node, name: &str, options: &[Box<str>], value: &Value) {
        let names = || options.iter().map(|option| &**option);
        let fault = faults::not_in_list(name, options, value);
        if let Value::String(wanted) = value
            && !wanted.trim().is_empty()
        {
            let folder = model_folder(&node.class_type, name);
            if folder.is_some() || has_extension(wanted, MODEL_EXTENSIONS) {
                let message = self.missing_model(wanted, folder, options);
                self.missing_models.push(MissingModel {
                    folder,
                    name: wanted.clone(),
                });
                self.complain((id, node), name, message, fault);
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
        self.complain((id, node), name, message, fault);
    }

    /// Which file is missing, where it belongs, what is there instead, where it can be had.
    fn missing_model(&self, wanted: &str, folder: Option<&str>, options: &[Box<str>]) -> String {
        let known = self.models.lookup(wanted);
        // Windows writes folders with a backslash, and some people have folders that others do not.
        let here: Vec<&str> = options
            .iter()
            .map(|option| &**option)
            .filter(|option| file_name(option).eq_ignore_ascii_case(file_name(wanted)))
            .take(3)
            .collect();
        let folder = folder.or(known.map(|file| file.folder.as_str()));
        let place = folder.map_or_else(|| "the models folder".to_owned(), |folder| format!("models/{folder}"));
        let mut message = format!("{} is not installed in {place}", echo::json(&Value::from(wanted)));
        if !here.is_empty() {
            return format!("{message} under that name: write {}", any_of(&here));
        }
        let likely = closest_files(wanted, options.iter().map(|option| &**option), self.suggestions());
        if !likely.is_empty() {
            message = format!("{message}; closest installed: {}", any_of(&likely));
        } else if options.is_empty() {
            message.push_str("; nothing is");
        }
        if let Some(file) = known {
            message = match self.models.unaccepted(file) {
                Some(unaccepted) => format!("{message}; {unaccepted}"),
                None => format!("{message}; it can be had from {}", file.url()),
            };
        }
        message
    }
}
