//! Makes prompts better: asks the configured chat model, and does without it where it does not answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::config::ChatModel;
use crate::dialect::gradio::{chat_request, parse_chat, with_suffix};
use crate::display::error_chain;
use crate::net::guard::read_limited;

/// The longest that a chat model may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read, in bytes.
const ANSWER_BYTES: usize = 1024 * 1024;
/// How many prompts are sent at once.
const AT_ONCE: usize = 8;

/// Makes prompts better. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Enhancer(Option<Arc<Chat>>);

#[derive(Debug)]
struct Chat {
    model: ChatModel,
    http: reqwest::Client,
    turns: Semaphore,
}

impl Enhancer {
    pub(super) fn new(model: Option<&ChatModel>) -> Result<Self, reqwest::Error> {
        let Some(model) = model else { return Ok(Self(None)) };
        let http = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        Ok(Self(Some(Arc::new(Chat {
            model: model.clone(),
            http,
            turns: Semaphore::new(AT_ONCE),
        }))))
    }

    /// The prompt as the chat model has it, or else as it is, with the suffix of its language.
    pub(super) async fn enhance(&self, prompt: &str) -> String {
        let Some(chat) = &self.0 else {
            return with_suffix(prompt);
        };
        match chat.rewrite(prompt).await {
            Ok(rewritten) => with_suffix(&rewritten),
            Err(reason) => {
                tracing::warn!(reason, "the chat model of PROMPT_ENHANCE_URL was of no help");
                with_suffix(prompt)
            }
        }
    }
}

impl Chat {
    async fn rewrite(&self, prompt: &str) -> Result<String, String> {
        let _turn = self.turns.acquire().await.map_err(|error| error.to_string())?;
        let body = chat_request(&self.model.model, prompt);
        let mut request = self.http.post(self.model.completions.clone()).json(&body);
        if let Some(key) = &self.model.api_key {
            request = request.bearer_auth(key.reveal());
        }
        let told = |error: reqwest::Error| error_chain(&error.without_url());
        let response = request.send().await.map_err(told)?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("it answered {status}"));
        }
        let body = read_limited(response, ANSWER_BYTES).await;
        parse_chat(&body.map_err(|error| error_chain(&error))?)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::post;
    use axum::{Json, Router};
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Secret;
    use crate::net::testing::serve;

    /// A chat model that says what it is given to say, and the address of its API.
    async fn chat(status: StatusCode, answer: Value) -> ChatModel {
        let router = Router::new().route(
            "/v1/chat/completions",
            post(move |headers: HeaderMap, Json(asked): Json<Value>| async move {
                assert_eq!(headers["authorization"], "Bearer 4711");
                assert_eq!(asked["model"], "some-model");
                assert_eq!(asked["messages"][1]["content"], "a cat");
                (status, Json(answer))
            }),
        );
        let address = serve(router).await;
        ChatModel {
            completions: format!("{address}/v1/chat/completions").parse().unwrap(),
            model: "some-model".to_owned(),
            api_key: Some(Secret::new("4711")),
        }
    }

    async fn enhanced(status: StatusCode, answer: Value) -> String {
        let model = chat(status, answer).await;
        Enhancer::new(Some(&model)).unwrap().enhance("a cat").await
    }

    #[tokio::test]
    async fn the_chat_model_has_its_say() {
        let answer = json!({"choices": [{"message": {"content": "<think>hm</think>\nA grey cat\non a wall"}}]});
        let prompt = enhanced(StatusCode::OK, answer).await;
        assert_eq!(prompt, "A grey cat on a wall, Ultra HD, 4K, cinematic composition.");
    }

    #[tokio::test]
    async fn a_chat_model_that_fails_is_done_without() {
        for (status, answer) in [
            (StatusCode::INTERNAL_SERVER_ERROR, json!({})),
            (StatusCode::OK, json!({"choices": []})),
            (StatusCode::OK, json!({"error": "no"})),
            (StatusCode::OK, json!({"choices": [{"message": {"content": " "}}]})),
            (
                StatusCode::OK,
                json!({"choices": [{"message": {"content": "x".repeat(2 * ANSWER_BYTES)}}]}),
            ),
        ] {
            let prompt = enhanced(status, answer).await;
            assert_eq!(prompt, "a cat, Ultra HD, 4K, cinematic composition.");
        }
    }
}
