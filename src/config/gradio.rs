//! The Gradio dialect: how prompts are enhanced, and how much of the GPU a client gets.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::secret::Secret;
use super::variable::{Reader, Variable, integer, text, web_address};

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

const GRADIO_GPU_QUOTA_S: Variable = Variable {
    name: "GRADIO_GPU_QUOTA_S",
    kind: "seconds, 1 to 86400",
    default: None,
    example: "120",
    meaning: "How long the GPU works for one client of the Gradio API within 24 hours; after that it gets the error of a ZeroGPU Space. A client is a key of `API_KEY`, else an address. Counted in memory, so a restart begins anew. Not set: no limit.",
    secret: false,
};
const PROMPT_ENHANCE_URL: Variable = Variable {
    name: "PROMPT_ENHANCE_URL",
    kind: "URL",
    default: None,
    example: "http://127.0.0.1:8000/v1",
    meaning: "OpenAI-compatible API of a chat model that rewrites prompts where a request asks for `prompt_enhance`; needs `PROMPT_ENHANCE_MODEL`. Not set, or when the model does not answer: the prompt gets the suffix that Qwen recommends.",
    secret: false,
};
const PROMPT_ENHANCE_MODEL: Variable = Variable {
    name: "PROMPT_ENHANCE_MODEL",
    kind: "name",
    default: None,
    example: "qwen-plus",
    meaning: "The chat model's name at `PROMPT_ENHANCE_URL`.",
    secret: false,
};
const PROMPT_ENHANCE_API_KEY: Variable = Variable {
    name: "PROMPT_ENHANCE_API_KEY",
    kind: "secret",
    default: None,
    example: "0123456789abcdef",
    meaning: "Key for `PROMPT_ENHANCE_URL`, where it wants one.",
    secret: true,
};

pub(super) const VARIABLES: &[&Variable] = &[
    &GRADIO_GPU_QUOTA_S,
    &PROMPT_ENHANCE_URL,
    &PROMPT_ENHANCE_MODEL,
    &PROMPT_ENHANCE_API_KEY,
];

#[derive(Deserialize, Default)]
struct Raw {
    gradio_gpu_quota_s: Option<String>,
    prompt_enhance_url: Option<String>,
    prompt_enhance_model: Option<String>,
    prompt_enhance_api_key: Option<String>,
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<GradioConfig> {
    let raw: Raw = reader.raw(vars);
    let quota = reader.optional(&GRADIO_GPU_QUOTA_S, raw.gradio_gpu_quota_s, integer(1..=86_400_u64));
    let url = reader.optional(&PROMPT_ENHANCE_URL, raw.prompt_enhance_url, completions);
    let model = reader.optional(&PROMPT_ENHANCE_MODEL, raw.prompt_enhance_model, text);
    let api_key = reader.optional(&PROMPT_ENHANCE_API_KEY, raw.prompt_enhance_api_key, text);
    let (quota, url, model, api_key) = (quota?, url?, model?, api_key?);
    let chat = match (url, model) {
        (Some(completions), Some(model)) => Some(ChatModel {
            completions,
            model,
            api_key: api_key.map(Secret::new),
        }),
        (Some(_), None) => {
            reader.mistake(&PROMPT_ENHANCE_MODEL, "is not set, and PROMPT_ENHANCE_URL needs it");
            None
        }
        (None, Some(_)) => {
            reader.mistake(&PROMPT_ENHANCE_URL, "is not set, and PROMPT_ENHANCE_MODEL needs it");
            None
        }
        (None, None) => None,
    };
    Some(GradioConfig {
        gpu_quota: quota.map(Duration::from_secs),
        chat,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read_vars(vars: &[(&str, &str)]) -> (Option<GradioConfig>, Vec<String>) {
        let vars: Vec<_> = vars
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut reader = Reader::default();
        let config = read(&mut reader, &vars);
        let (_, mistakes) = reader.finish();
        (config, mistakes.iter().map(ToString::to_string).collect())
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
        assert_eq!(config.unwrap().chat, None);
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
        let chat = config.unwrap().chat.unwrap();
        assert!(!format!("{chat:?}").contains("4711"));
        assert_eq!(chat.api_key.unwrap().reveal(), "4711");
    }
}
