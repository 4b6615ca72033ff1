//! The safety check of finished pictures.

use serde::Deserialize;
use url::Url;

use super::secret::Secret;
use super::variable::{Reader, Variable, text};

/// The endpoint that says whether a picture may be handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetyConfig {
    /// Its address.
    pub url: Url,
    /// Its key, if it wants one.
    pub api_key: Option<Secret>,
    /// The model that it is asked for.
    pub model: String,
}

const SAFETY_CHECK_URL: Variable = Variable {
    name: "SAFETY_CHECK_URL",
    kind: "http or https URL",
    default: None,
    example: "https://moderation.example.com/v1/moderations",
    meaning: "Where finished pictures are judged for requests that ask for a safety check (KIE's `enable_safety_checker`): a moderation endpoint in OpenAI's shape that takes images. A picture that it flags, or that it cannot be asked about, is not handed out. Not set: nothing is checked, and records say `safetyChecked: false`.",
    secret: false,
};
const SAFETY_CHECK_API_KEY: Variable = Variable {
    name: "SAFETY_CHECK_API_KEY",
    kind: "secret",
    default: None,
    example: "0123456789abcdef",
    meaning: "The key for `SAFETY_CHECK_URL`, sent as `Authorization: Bearer`.",
    secret: true,
};
const SAFETY_CHECK_MODEL: Variable = Variable {
    name: "SAFETY_CHECK_MODEL",
    kind: "name",
    default: Some("omni-moderation-latest"),
    example: "omni-moderation-latest",
    meaning: "The model that `SAFETY_CHECK_URL` is asked for.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[&SAFETY_CHECK_URL, &SAFETY_CHECK_API_KEY, &SAFETY_CHECK_MODEL];

#[derive(Deserialize, Default)]
#[expect(clippy::struct_field_names, reason = "they are the variables' names")]
struct Raw {
    safety_check_url: Option<String>,
    safety_check_api_key: Option<String>,
    safety_check_model: Option<String>,
}

fn address(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ => Err("is no http or https URL".to_owned()),
    }
}

#[expect(clippy::option_option, reason = "a mistake and an absent value are two things")]
pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<Option<SafetyConfig>> {
    let raw: Raw = reader.raw(vars);
    let url = reader.optional(&SAFETY_CHECK_URL, raw.safety_check_url, address)?;
    let api_key = reader.optional(&SAFETY_CHECK_API_KEY, raw.safety_check_api_key, |text| {
        Ok(Secret::new(text))
    })?;
    let model = reader.value(&SAFETY_CHECK_MODEL, raw.safety_check_model, text)?;
    Some(url.map(|url| SafetyConfig { url, api_key, model }))
}
