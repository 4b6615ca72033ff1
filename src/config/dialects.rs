//! The dialects that have settings: OpenAI, Gradio, Edit Plus, and KIE's safety check.

use std::time::Duration;

use url::Url;

use super::http::PORT;
use super::retired::{EDIT_TEMPLATE, SAFETY_CHECK_MODEL};
use super::variable::{Reader, Secret, Variable, parsed, seconds, secret, switch, text, web_address};

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

/// How the Gradio dialect serves its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GradioConfig {
    /// The GPU time of one client within 24 hours; [`None`]: as much as it wants.
    pub gpu_quota: Option<Duration>,
    /// The chat model that rewrites prompts; [`None`]: they get a suffix.
    pub chat: Option<ChatModel>,
}

/// A chat model behind an OpenAI-compatible endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatModel {
    /// Where completions are asked for.
    pub completions: Url,
    /// The model's name there.
    pub model: String,
    /// The key, where one is needed.
    pub api_key: Option<Secret>,
}

/// How the Edit Plus API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditConfig {
    /// A port of its own, beside `/edit` on the port of everything; 0 takes a free one. [`None`]: there is none.
    pub port: Option<u16>,
    /// Whether somebody chose that port. One that is taken is an error then.
    pub port_is_chosen: bool,
    /// The template of requests that name no model.
    pub template: String,
}

pub(super) const OPENAI_B64_DATA_URI: Variable<bool> = switch("OPENAI_B64_DATA_URI", false)
    .meaning("Whether `b64_json` of `/v1/images/…` begins `data:image/png;base64,`, as some hosts of Qwen models send it. OpenAI sends plain base64, and its clients decode that.");
const SAFETY_CHECK_URL: Variable<Url> = parsed("SAFETY_CHECK_URL", "http or https URL", web_address)
    .example("https://moderation.example.com/v1/moderations")
    .meaning("Where finished pictures are judged for requests that ask for a safety check (KIE's `enable_safety_checker`): a moderation endpoint in OpenAI's shape that takes images. A picture that it flags, or that it cannot be asked about, is not handed out. Not set: nothing is checked, and records say `safetyChecked: false`.");
const SAFETY_CHECK_API_KEY: Variable<Secret> = secret("SAFETY_CHECK_API_KEY")
    .example("0123456789abcdef")
    .meaning("The key for `SAFETY_CHECK_URL`, sent as `Authorization: Bearer`.");
const GRADIO_GPU_QUOTA_S: Variable<Duration> = seconds("GRADIO_GPU_QUOTA_S", 1..=86_400)
    .example("120")
    .meaning("How long the GPU works for one client of the Gradio API within 24 hours; after that it gets the error of a ZeroGPU Space. A client is a key of `API_KEY`, else an address. Counted in memory, so a restart starts from nothing. Not set: no limit.");
const PROMPT_ENHANCE_URL: Variable<Url> = parsed("PROMPT_ENHANCE_URL", "URL", completions)
    .example("http://127.0.0.1:8000/v1")
    .meaning("OpenAI-compatible API of a chat model that rewrites prompts where a request asks for `prompt_enhance`; needs `PROMPT_ENHANCE_MODEL`. Not set, or when the model does not answer: the prompt gets the suffix that Qwen recommends.");
const PROMPT_ENHANCE_MODEL: Variable<String> = text("PROMPT_ENHANCE_MODEL", "name")
    .example("qwen-plus")
    .meaning("The chat model's name at `PROMPT_ENHANCE_URL`.");
const PROMPT_ENHANCE_API_KEY: Variable<Secret> = secret("PROMPT_ENHANCE_API_KEY")
    .example("0123456789abcdef")
    .meaning("Key for `PROMPT_ENHANCE_URL`, where it wants one.");
const EDIT_PORT: Variable<Option<u16>> = parsed("EDIT_PORT", "port, 0 to 65535, or none", port)
    .default_and_example("8189", "none")
    .meaning("Port of the Edit Plus API, which is served under `/edit` on `PORT` too, and of Comfy API v2, which is served on both; `0` takes a free one and logs it. Not set, and 8189 is taken: a warning, and there is none.");

pub(super) fn safety(reader: &mut Reader) -> Option<SafetyConfig> {
    let url = reader.optional(&SAFETY_CHECK_URL);
    let api_key = reader.optional(&SAFETY_CHECK_API_KEY);
    let model = reader.value(&SAFETY_CHECK_MODEL);
    url.map(|url| SafetyConfig { url, api_key, model })
}

pub(super) fn gradio(reader: &mut Reader) -> GradioConfig {
    let gpu_quota = reader.optional(&GRADIO_GPU_QUOTA_S);
    let url = reader.optional(&PROMPT_ENHANCE_URL);
    let model = reader.optional(&PROMPT_ENHANCE_MODEL);
    let api_key = reader.optional(&PROMPT_ENHANCE_API_KEY);
    let chat = match (url, model) {
        (Some(completions), Some(model)) => Some(ChatModel {
            completions,
            model,
            api_key,
        }),
        (Some(_), None) => {
            reader.mistake(&PROMPT_ENHANCE_MODEL, "is not set, and PROMPT_ENHANCE_URL needs it");
            None
        }
        (None, Some(_)) if !reader.is_set(&PROMPT_ENHANCE_URL) => {
            reader.mistake(&PROMPT_ENHANCE_URL, "is not set, and PROMPT_ENHANCE_MODEL needs it");
            None
        }
        (None, _) => None,
    };
    GradioConfig { gpu_quota, chat }
}

pub(super) fn edit(reader: &mut Reader) -> EditConfig {
    EditConfig {
        port: reader.value(&EDIT_PORT),
        port_is_chosen: reader.is_set(&EDIT_PORT),
        template: reader.value(&EDIT_TEMPLATE),
    }
}

/// Where completions are asked for: under the base of the API, as OpenAI's clients are given it, or at the whole
/// address.
fn completions(text: &str) -> Result<Url, String> {
    let mut url = web_address(text)?;
    let path = url.path().trim_end_matches('/').to_owned();
    if !path.ends_with("/chat/completions") {
        url.set_path(&format!("{path}/chat/completions"));
    }
    Ok(url)
}

fn port(text: &str) -> Result<Option<u16>, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let number = PORT.parse(text);
    number.map(Some).map_err(|message| format!("{message}, nor none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_vars(vars: &[(&str, &str)]) -> (GradioConfig, Vec<String>) {
        let mut reader = Reader::of(vars);
        let config = gradio(&mut reader);
        (config, reader.mistakes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_address_of_an_api_is_its_base_or_the_whole() {
        for given in [
            "http://127.0.0.1:8000/v1",
            "http://127.0.0.1:8000/v1/",
            "http://127.0.0.1:8000/v1/chat/completions",
        ] {
            let url = completions(given).unwrap();
            assert_eq!(url.as_str(), "http://127.0.0.1:8000/v1/chat/completions", "{given}");
        }
        assert!(completions("ftp://127.0.0.1").is_err());
    }

    #[test]
    fn an_address_needs_a_model() {
        let (config, mistakes) = read_vars(&[("PROMPT_ENHANCE_URL", "http://127.0.0.1/v1")]);
        assert_eq!(config.chat, None);
        assert_eq!(
            mistakes,
            ["PROMPT_ENHANCE_MODEL: is not set, and PROMPT_ENHANCE_URL needs it"]
        );
        let (config, mistakes) = read_vars(&[
            ("PROMPT_ENHANCE_URL", "http://127.0.0.1/v1"),
            ("PROMPT_ENHANCE_MODEL", "qwen-plus"),
            ("PROMPT_ENHANCE_API_KEY", "4711"),
        ]);
        assert!(mistakes.is_empty());
        let chat = config.chat.unwrap();
        assert!(!format!("{chat:?}").contains("4711"));
        assert_eq!(chat.api_key.unwrap().reveal(), "4711");
    }

    #[test]
    fn a_port_or_none() {
        assert_eq!(port("8189"), Ok(Some(8189)));
        assert_eq!(port("None"), Ok(None));
        assert_eq!(port("x").unwrap_err(), "is no whole number from 0 to 65535, nor none");
    }
}
