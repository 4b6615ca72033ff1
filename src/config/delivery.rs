//! How results go back.

use serde::Deserialize;

use super::variable::{Reader, Variable};

/// The form in which a result names or holds its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnImagesAs {
    /// What suits the way the job came in: names over HTTP, base64 on a queue.
    Auto,
    /// File names, to be fetched from `/view`.
    Metadata,
    /// The bytes themselves.
    Base64,
}

impl ReturnImagesAs {
    /// The names that requests and the environment use.
    pub const NAMES: [&'static str; 3] = ["auto", "metadata", "base64"];

    /// The name in [`Self::NAMES`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Metadata => "metadata",
            Self::Base64 => "base64",
        }
    }

    /// Reads one of [`Self::NAMES`].
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "auto" => Some(Self::Auto),
            "metadata" => Some(Self::Metadata),
            "base64" => Some(Self::Base64),
            _ => None,
        }
    }
}

/// How results go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryConfig {
    /// The form of a result, unless the request says otherwise.
    pub return_images_as: ReturnImagesAs,
}

const RETURN_IMAGES_AS: Variable = Variable {
    name: "RETURN_IMAGES_AS",
    kind: "auto, metadata or base64",
    default: Some("auto"),
    example: "base64",
    meaning: "`metadata`: file names for `/view`; `base64`: the bytes in the answer; `auto`: metadata over HTTP. `input.return_images_as` overrides it.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[&RETURN_IMAGES_AS];

#[derive(Deserialize, Default)]
struct Raw {
    return_images_as: Option<String>,
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<DeliveryConfig> {
    let raw: Raw = reader.raw(vars);
    let return_images_as = reader.value(&RETURN_IMAGES_AS, raw.return_images_as, |text| {
        ReturnImagesAs::parse(text).ok_or_else(|| format!("is none of {}", ReturnImagesAs::NAMES.join(", ")))
    });
    Some(DeliveryConfig {
        return_images_as: return_images_as?,
    })
}
