//! OpenAI's Images API.

use serde::Deserialize;

use super::variable::{Reader, Variable, boolean};

/// How OpenAI's Images API is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenAiConfig {
    /// Whether `b64_json` holds a data URI instead of plain base64.
    pub b64_data_uri: bool,
}

const OPENAI_B64_DATA_URI: Variable = Variable {
    name: "OPENAI_B64_DATA_URI",
    kind: "true or false",
    default: Some("false"),
    example: "true",
    meaning: "Whether `b64_json` of `/v1/images/…` begins `data:image/png;base64,`, as some hosts of Qwen models send it. OpenAI sends plain base64, and its clients decode that.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[&OPENAI_B64_DATA_URI];

#[derive(Deserialize, Default)]
struct Raw {
    openai_b64_data_uri: Option<String>,
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<OpenAiConfig> {
    let raw: Raw = reader.raw(vars);
    let b64_data_uri = reader.value(&OPENAI_B64_DATA_URI, raw.openai_b64_data_uri, boolean)?;
    Some(OpenAiConfig { b64_data_uri })
}
