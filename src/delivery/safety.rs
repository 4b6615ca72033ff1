//! Asks a moderation endpoint whether a picture may be handed out, in the shape of OpenAI's moderations
//! (`POST /v1/moderations` with an image), where a request asks for that and an endpoint is configured.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::files::Files;
use crate::config::SafetyConfig;
use crate::display::{error_chain, redacted};
use crate::encoding::STANDARD;
use crate::error::{ErrorKind, JobError};
use crate::job::{FileKind, Outcome, OutputFile};
use crate::net::retry::RetryPolicy;
use crate::telemetry::traces;

/// The longest that one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Pictures that are judged at once: each is in memory.
const AT_ONCE: usize = 8;

/// Asks about pictures. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SafetyChecker {
    http: reqwest::Client,
    config: SafetyConfig,
}

/// What was said of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// It may be handed out.
    Safe,
    /// It may not; the categories that it was found in.
    Flagged(Vec<String>),
}

/// Why nothing was said of a picture. The endpoint is named without what may be secret.
struct Unanswered {
    reason: String,
    /// Whether another attempt may do better.
    passing: bool,
}

#[derive(Deserialize)]
struct Moderation {
    results: Vec<Judged>,
}

#[derive(Deserialize)]
struct Judged {
    flagged: bool,
    #[serde(default)]
    categories: serde_json::Map<String, serde_json::Value>,
}

impl SafetyChecker {
    /// A checker that asks the configured endpoint.
    pub fn new(config: &SafetyConfig) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .timeout(TIMEOUT)
            .build()?;
        let config = config.clone();
        Ok(Self { http, config })
    }

    /// Judges the pictures of an outcome; says so in it. Those of one that may not be handed out are removed, if the job
    /// `has_made` them.
    pub(super) async fn judge(
        &self,
        files: &Files,
        outcome: &mut Outcome,
        has_made: impl Fn(&Path) -> bool,
    ) -> Result<(), JobError> {
        let pictures = outcome.wanted().filter(|file| file.kind == FileKind::Image);
        let judging: Vec<_> = pictures.map(|file| self.judge_one(files, file)).collect();
        let judged = stream::iter(judging).buffered(AT_ONCE).try_collect::<Vec<_>>().await;
        let error = match judged {
            Ok(verdicts) => {
                let flagged = verdicts.into_iter().find_map(|verdict| match verdict {
                    Verdict::Safe => None,
                    Verdict::Flagged(categories) => Some(categories),
                });
                let Some(categories) = flagged else {
                    outcome.safety_checked = true;
                    return Ok(());
                };
                refused(&categories)
            }
            Err(error) => error,
        };
        // Nobody gets to see them. What was there before the job is somebody else's.
        for file in &outcome.files {
            if let Ok(Some(path)) = files.path(file, file.original())
                && has_made(&path)
                && let Err(error) = tokio::fs::remove_file(&path).await
            {
                tracing::warn!(%error, "a picture that is not handed out could not be removed: {}", path.display());
            }
        }
        Err(error)
    }

    async fn judge_one(&self, files: &Files, file: &OutputFile) -> Result<Verdict, JobError> {
        let content = files.original(file).await?;
        let media_type = imagesize::image_type(&content).map_or("image/png", |format| match format {
            imagesize::ImageType::Jpeg => "image/jpeg",
            imagesize::ImageType::Webp => "image/webp",
            imagesize::ImageType::Gif => "image/gif",
            _ => "image/png",
        });
        let judged = self.check(&content, media_type).await;
        judged.map_err(|error| {
            let message = format!("The safety check could not be made: {}", error.reason);
            JobError::new(ErrorKind::Undeliverable, message)
                .hint("Try again later; SAFETY_CHECK_URL names the endpoint.")
        })
    }

    /// Asks about an encoded picture.
    async fn check(&self, content: &Bytes, media_type: &str) -> Result<Verdict, Unanswered> {
        let url = format!("data:{media_type};base64,{}", STANDARD.encode(content));
        let body = json!({
            "model": self.config.model,
            "input": [{"type": "image_url", "image_url": {"url": url}}],
        });
        let mut delays = RetryPolicy::BRIEF.delays();
        loop {
            match self.ask(&body).await {
                Err(error) if error.passing && delays.wait().await => {
                    tracing::info!("a picture's safety is asked about again: {}", error.reason);
                }
                done => return done,
            }
        }
    }

    async fn ask(&self, body: &serde_json::Value) -> Result<Verdict, Unanswered> {
        let url = redacted(&self.config.url);
        let unanswered = |reason, passing| Unanswered { reason, passing };
        let broken = |error: reqwest::Error| {
            let reason = error_chain(&error.without_url());
            unanswered(format!("no answer from {url}: {reason}"), true)
        };
        let mut request = self.http.post(self.config.url.clone()).json(body);
        if let Some(key) = &self.config.api_key {
            request = request.bearer_auth(key.reveal());
        }
        if let Some(traceparent) = traces::current() {
            request = request.header(traces::HEADER, traceparent);
        }
        let answer = request.send().await.map_err(broken)?;
        let status = answer.status();
        if !status.is_success() {
            let passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            return Err(unanswered(format!("{url} answered {status}"), passing));
        }
        let text = answer.bytes().await.map_err(broken)?;
        let moderation: Option<Moderation> = serde_json::from_slice(&text).ok();
        let judged = moderation.map(|moderation| moderation.results).unwrap_or_default();
        // No verdict is not a good one.
        if judged.is_empty() {
            return Err(unanswered(
                format!("{url} answered something else than a moderation"),
                false,
            ));
        }
        let flagged = judged.into_iter().filter(|judged| judged.flagged);
        let mut found = None;
        for judged in flagged {
            let names = judged
                .categories
                .into_iter()
                .filter(|(_, value)| value.as_bool() == Some(true));
            found.get_or_insert_with(Vec::new).extend(names.map(|(name, _)| name));
        }
        Ok(found.map_or(Verdict::Safe, Verdict::Flagged))
    }
}

fn refused(categories: &[String]) -> JobError {
    let found = match categories {
        [] => String::new(),
        some => format!(": {}", some.join(", ")),
    };
    JobError::invalid(format!("The safety check refused the picture{found}"))
        .hint("Ask for another picture.")
        .at("prompt")
}

#[cfg(test)]
mod tests {
    use axum::Json;
    use axum::http::HeaderMap;
    use axum::routing::post;
    use serde_json::Value;

    use super::*;
    use crate::config::Secret;

    /// An endpoint that answers so.
    async fn checker(status: u16, answer: Value) -> SafetyChecker {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/moderations?x=secret", listener.local_addr().unwrap());
        let handler = async move |headers: HeaderMap, Json(body): Json<Value>| {
            assert_eq!(headers["authorization"], "Bearer key");
            assert_eq!(
                body,
                json!({"model": "m", "input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]})
            );
            (StatusCode::from_u16(status).unwrap(), Json(answer))
        };
        let router = axum::Router::new().route("/v1/moderations", post(handler));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = SafetyConfig {
            url: url.parse().unwrap(),
            api_key: Some(Secret::new("key")),
            model: "m".to_owned(),
        };
        SafetyChecker::new(&config).unwrap()
    }

    async fn asked(status: u16, answer: Value) -> Result<Verdict, String> {
        let checker = checker(status, answer).await;
        let asked = checker.check(&Bytes::from_static(b"ABC"), "image/png").await;
        asked.map_err(|error| error.reason)
    }

    #[tokio::test]
    async fn a_picture_is_judged() {
        let safe = json!({"id": "x", "model": "m", "results": [{"flagged": false, "categories": {"violence": false}}]});
        assert_eq!(asked(200, safe).await, Ok(Verdict::Safe));
        let flagged = json!({"results": [{"flagged": true, "categories": {"violence": true, "sexual": false}}]});
        assert_eq!(
            asked(200, flagged).await,
            Ok(Verdict::Flagged(vec!["violence".to_owned()]))
        );
    }

    #[tokio::test]
    async fn no_verdict_is_an_error() {
        for (status, answer) in [
            (200, json!({})),
            (200, json!({"results": []})),
            (401, json!({"error": "no"})),
        ] {
            let error = asked(status, answer).await.unwrap_err();
            assert!(
                error.starts_with("http://127.0.0.1:") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
