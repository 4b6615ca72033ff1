//! KIE's tasks (docs.kie.ai, Market, Qwen): `createTask`, and `recordInfo` until it is over. Errors come with the status 200, and
//! the code that counts in the answer. A task cannot be cancelled, nor be found again without its id.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;
use url::Url;

use super::follow::{Lost, is_id};
use super::images::{STEM, data_uri, prefix_of};
use super::meaning::{Answer, refused, refused_by_code, unreadable};
use super::output::Output;
use super::status::{Fault, Status};
use super::terms::{Approximate, Fitted, Named, Size, Sizes, Terms, nearest};
use super::{Refusal, Web};
use crate::delivery::s3::Lent;
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Ask, AskedFile, AskedWork, Failed, Link, Made, Prompt};
use crate::job::ImageHeader;
use crate::job::progress::Report;
use crate::net::retry::RetryPolicy;

/// Its models of pictures from text, and of edits.
const TEXT_TO_IMAGE: &str = "qwen/text-to-image";
const IMAGE_EDIT: &str = "qwen/image-edit";
/// Its sizes. How many pixels they have it does not promise.
const SIZES: &[Named] = &[
    named("square_hd", "1:1"),
    named("portrait_4_3", "3:4"),
    named("portrait_16_9", "9:16"),
    named("landscape_4_3", "4:3"),
    named("landscape_16_9", "16:9"),
];
/// The most bytes of an image that is edited.
const LARGEST_IMAGE: usize = 10_000_000;
/// The longest that it may take to answer.
const ANSWERS: Duration = Duration::from_mins(1);
/// The waits between two questions: every few seconds at first, then less often.
pub(super) const POLLS: RetryPolicy = RetryPolicy {
    initial: Duration::from_secs(1),
    factor: 1.25,
    longest: Duration::from_secs(15),
    jitter: 0.1,
    attempts: None,
};
/// Words by which it refuses what a picture would show.
const OF_CONTENT: [&str; 5] = ["nsfw", "sensitive", "policy", "prohibited", "moderation"];

const fn named(name: &'static str, ratio: &'static str) -> Named {
    Named {
        name,
        ratio,
        pixels: None,
    }
}

/// What it takes. Edits need a place for their images (`can_edit`).
pub(super) fn terms(is_edit: bool, can_edit: bool) -> Terms {
    Terms {
        makes: true,
        most_images: usize::from(can_edit),
        longest_prompt: if is_edit { 2_000 } else { 5_000 },
        longest_negative: Some(500),
        largest_seed: Some(u64::from(u32::MAX >> 1)),
        steps: Some(if is_edit { (2, 49) } else { (2, 250) }),
        cfg: Some((0.0, 20.0)),
        most_pictures: if is_edit { 4 } else { 1 },
        sizes: Sizes::Named(SIZES),
    }
}

impl Web {
    /// Has a picture made.
    pub(super) async fn run_as_task(
        &self,
        uploads: Option<&Url>,
        ask: Ask,
        link: &mut Link<'_>,
    ) -> Result<Made, Failed> {
        let AskedWork::Prompt(prompt) = ask.work else {
            return Err(JobError::internal("KIE runs no graphs").into());
        };
        let name = self.spec().name.clone();
        let mut fitted = terms(!ask.files.is_empty(), true).fit(&name, &prompt);
        let image = match ask.files.as_slice() {
            [] => None,
            [image] => {
                self.keep_shape(&prompt, image, &mut fitted)?;
                Some(link.unless_cancelled(self.put_up(uploads, image, link)).await?)
            }
            _ => return Err(JobError::internal("KIE edits one image").into()),
        };
        let (lent, address) = image.unzip();
        let body = body(&prompt, &fitted, address.as_deref());
        let made = match self.create(&body, link).await {
            Ok(id) => self.made_by_task(&id, link, Some((&prompt, fitted))).await,
            Err(failed) => Err(failed),
        };
        if let Some(lent) = lent.flatten() {
            tokio::spawn(lent.remove());
        }
        made
    }

    /// An edit has the shape of its image, where it asks for no other.
    fn keep_shape(&self, prompt: &Prompt, image: &AskedFile, fitted: &mut Fitted) -> Result<(), Failed> {
        let (None, Ok(header)) = (prompt.size, ImageHeader::read(&image.content)) else {
            return Ok(());
        };
        let (width, height) = (header.width, header.height);
        let sides = u32::try_from(width).ok().zip(u32::try_from(height).ok());
        let Some((size, is_same)) = sides.and_then(|sides| nearest(SIZES, sides)) else {
            return Ok(());
        };
        fitted.size = Some(Size::Named(size.name));
        let name = &self.spec().name;
        if !is_same && !self.spec().approximates.contains(&Approximate::Size) {
            let message = format!("engine `{name}` makes no pictures of the shape of the image, {width} x {height}");
            let error = JobError::new(ErrorKind::InvalidRequest, message);
            let hint = "Send one of 1:1, 3:4, 4:3, 9:16 or 16:9, ask for an aspect_ratio, or set `approximates = [\"size\"]` of the engine.";
            return Err(Failed::elsewhere(error.hint(hint)));
        }
        if !is_same {
            let what = format!(
                "engine `{name}` makes no pictures of {width} x {height}, the image's: one of {} was made",
                size.ratio
            );
            fitted.warnings.push(what);
        }
        Ok(())
    }

    /// The same of a task that a previous run of the worker created.
    pub(super) async fn task_asked_again(&self, id: &str, link: &mut Link<'_>) -> Result<Made, Failed> {
        tracing::info!("engine `{}` is asked again for the task {id}", self.spec().name);
        link.is_taken();
        let prompt = link.asked_before();
        let asked = prompt.as_ref().map(|prompt| {
            let is_edit = prompt.size.is_none();
            (prompt, terms(is_edit, true).fit(&self.spec().name, prompt))
        });
        self.made_by_task(id, link, asked).await
    }

    async fn create(&self, body: &Value, link: &mut Link<'_>) -> Result<String, Failed> {
        let mut request = self.sends.post(self.at("api/v1/jobs/createTask")).json(body);
        if let Some(traceparent) = link.traceparent() {
            request = request.header("traceparent", traceparent);
        }
        link.is_sent_as(&self.common.ticket(None).text()).await?;
        let sent = Instant::now();
        let refuse = |refusal| self.common.refused(link.name(), refusal);
        let answer = self.send(request, ANSWERS).await.map_err(refuse)?;
        let name = &self.spec().name;
        let id = match data_of(name, &answer) {
            Ok(data) => text(&data, "taskId"),
            Err(refusal) => return Err(self.common.refused(link.name(), refusal)),
        };
        let Some(id) = id.filter(|id| is_id(id)) else {
            return Err(self
                .common
                .refused(link.name(), Refusal::Unknown(unreadable(name, &answer))));
        };
        self.is_known_as(&id, sent, link).await;
        Ok(id)
    }

    async fn made_by_task(
        &self,
        id: &str,
        link: &mut Link<'_>,
        asked: Option<(&Prompt, Fitted)>,
    ) -> Result<Made, Failed> {
        let output = self.follow(id, link).await?;
        link.is_done_there();
        let (job, stop) = (link.name().to_owned(), link.stop());
        self.fetching(&job, stop, async {
            let addresses = output.value.get("resultUrls").and_then(Value::as_array);
            let addresses = addresses.filter(|addresses| !addresses.is_empty());
            let addresses = addresses.ok_or_else(|| self.undeliverable(&job, "names no pictures"))?;
            let addresses: Option<Vec<String>> = addresses.iter().map(|at| at.as_str().map(str::to_owned)).collect();
            let addresses = addresses.ok_or_else(|| self.undeliverable(&job, "names a picture at no address"))?;
            let prefix = asked
                .as_ref()
                .map_or_else(|| STEM.to_owned(), |(prompt, _)| prefix_of(prompt, &job));
            let files = self.pictures_at(addresses, &prefix, &job).await?;
            let (seed, warnings) = asked.map_or((None, Vec::new()), |(_, fitted)| (fitted.seed, fitted.warnings));
            Ok(Made {
                files,
                takes_no_seed: seed.is_none(),
                seed,
                warnings,
                ..Made::default()
            })
        })
        .await
    }

    /// How a task stands.
    pub(super) async fn status_of_task(&self, id: &str) -> Result<Status, Lost> {
        let request = self
            .http
            .get(self.at("api/v1/jobs/recordInfo"))
            .query(&[("taskId", id)]);
        let answer = self.asked(request).await.map_err(|error| match error.kind {
            ErrorKind::Undeliverable => Lost::TooLarge(error.message),
            _ => Lost::Unanswered(error.message),
        })?;
        let object = answer.object().filter(|_| answer.status.is_success());
        let Some(object) = object else {
            return Err(Lost::Unanswered(format!("it answered {}", answer.status)));
        };
        match code_of(&object) {
            // Of a task that is there, too, where it failed.
            Some(200 | 501) => {}
            Some(404 | 422) => return Err(Lost::Gone),
            code => return Err(Lost::Unanswered(format!("it answered with the code {code:?}"))),
        }
        let data = object.get("data").cloned().unwrap_or_default();
        if let Some(other) = text(&data, "taskId").filter(|other| other != id) {
            return Err(Lost::OfAnother(cut(&other)));
        }
        read(&data).ok_or_else(|| Lost::Unanswered("it tells no state of the task".to_owned()))
    }

    /// Puts an image where KIE can fetch it; gives its address, and what is to be removed when it is not needed any more.
    async fn put_up(
        &self,
        uploads: Option<&Url>,
        image: &AskedFile,
        link: &Link<'_>,
    ) -> Result<(Option<Lent>, String), Failed> {
        let bytes = image.content.len();
        let name = &self.spec().name;
        if bytes > LARGEST_IMAGE {
            let message = format!("the image has {bytes} bytes for engine `{name}`, whose limit is {LARGEST_IMAGE}");
            return Err(Failed::elsewhere(JobError::new(ErrorKind::TooLarge, message)));
        }
        let Some(uploads) = uploads else {
            let files = std::slice::from_ref(image);
            let (lent, mut addresses) = self.uploaded(link.name(), files, bytes).await?;
            let address = addresses.pop();
            let address = address.ok_or_else(|| JobError::internal("the image has no address"))?;
            return Ok((Some(lent), address));
        };
        // Not where another one's may be.
        let file_name = format!("{}-{}", uuid::Uuid::now_v7(), image.name.replace('/', "-"));
        let body = json!({"base64Data": data_uri(image), "uploadPath": "images/edits", "fileName": file_name});
        let to = format!("{}/api/file-base64-upload", uploads.as_str().trim_end_matches('/'));
        let answer = self.send(self.http.post(to).json(&body), self.spec().timeout).await;
        // Nothing is charged for it, and no task is there yet.
        let not_put = |refusal: Refusal| {
            let told = |error: JobError| {
                let message = format!("the image cannot be put up for engine `{name}`: {}", error.message);
                self.common.blanked(JobError { message, ..error })
            };
            match refusal {
                Refusal::Rests(cause, error) => self.common.refused(link.name(), Refusal::Rests(cause, told(error))),
                Refusal::OfJob(error) => Failed::elsewhere(told(error)),
                Refusal::Faulty(error) | Refusal::Unknown(error) => self.common.over(told(error)),
            }
        };
        let answer = answer.map_err(not_put)?;
        let data = data_of(name, &answer).map_err(not_put)?;
        let address = ["downloadUrl", "fileUrl"].iter().find_map(|field| text(&data, field));
        let address = address.ok_or_else(|| not_put(Refusal::Unknown(unreadable(name, &answer))))?;
        Ok((None, address))
    }
}

/// The body of `createTask`.
fn body(prompt: &Prompt, fitted: &Fitted, image: Option<&str>) -> Value {
    let mut input = Map::new();
    let mut put = |name: &str, value: Value| drop(input.insert(name.to_owned(), value));
    put("prompt", prompt.asked.prompt.as_str().into());
    put("output_format", "png".into());
    if let Some(Size::Named(name)) = fitted.size {
        put("image_size", name.into());
    }
    let fields = [
        ("negative_prompt", fitted.negative_prompt.as_deref().map(Value::from)),
        ("seed", fitted.seed.map(Value::from)),
        ("num_inference_steps", fitted.steps.map(Value::from)),
        ("guidance_scale", fitted.cfg.map(Value::from)),
        ("image_url", image.map(Value::from)),
        // It takes the number as a text.
        (
            "num_images",
            fitted
                .pictures
                .filter(|_| image.is_some())
                .map(|number| number.to_string().into()),
        ),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            put(name, value);
        }
    }
    let model = if image.is_some() { IMAGE_EDIT } else { TEXT_TO_IMAGE };
    json!({"model": model, "input": input})
}

/// `data` of an answer that is well.
fn data_of(engine: &str, answer: &Answer) -> Result<Value, Refusal> {
    let object = answer.object();
    let is_well = answer.status.is_success();
    match object.as_ref().and_then(code_of) {
        Some(200) if is_well => Ok(object
            .and_then(|mut object| Some(object.get_mut("data")?.take()))
            .unwrap_or_default()),
        Some(code) if is_well || code == answer.status.as_u16() => Err(refused_by_code(engine, answer, code)),
        _ if is_well => Err(Refusal::Unknown(unreadable(engine, answer))),
        _ => Err(refused(engine, answer)),
    }
}

/// Reads a record; [`None`]: it tells no state.
fn read(record: &Value) -> Option<Status> {
    Some(match text(record, "state")?.as_str() {
        "waiting" | "queuing" => Status::Queued,
        "generating" => Status::Running(Report {
            percent: record
                .get("progress")
                .and_then(Value::as_u64)
                .and_then(|percent| u8::try_from(percent).ok()),
            ..Report::default()
        }),
        "success" => {
            // It is JSON in a text.
            let result: Option<Value> = text(record, "resultJson").and_then(|text| serde_json::from_str(&text).ok());
            Status::Completed(Output::from(result.unwrap_or_default()))
        }
        "fail" => {
            let words = text(record, "failMsg").filter(|words| !words.trim().is_empty());
            let words = words.unwrap_or_else(|| "it failed, and says nothing of why".to_owned());
            let code = record
                .get("failCode")
                .map(|code| code.as_str().map_or_else(|| code.to_string(), str::to_owned));
            let lower = words.to_ascii_lowercase();
            let is_of_content = OF_CONTENT.iter().any(|known| lower.contains(known));
            let is_of_job = is_of_content || !code.is_some_and(|code| code.starts_with('5'));
            let kind = if is_of_job {
                ErrorKind::NodeFailed
            } else {
                ErrorKind::Internal
            };
            Status::Failed(Fault { kind, is_of_job, words })
        }
        _ => return None,
    })
}

fn code_of(object: &Value) -> Option<u16> {
    object.get("code")?.as_u64()?.try_into().ok()
}

fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::TemplateRequest;

    fn told(record: &Value) -> String {
        match read(record) {
            Some(Status::Failed(fault)) => format!("{:?} {}: {}", fault.kind, fault.is_of_job, fault.words),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_record_is_read_as_kie_writes_it() {
        for state in ["waiting", "queuing"] {
            assert_eq!(told(&json!({ "state": state })), "Some(Queued)");
        }
        assert!(told(&json!({"state": "generating", "progress": 40})).contains("percent: Some(40)"));
        let urls = r#"{"resultUrls":["https://example.com/a.png"]}"#;
        let well = told(&json!({"state": "success", "resultJson": urls}));
        assert!(well.contains("https://example.com/a.png"), "{well}");
        for (code, words, expected) in [
            (json!("501"), "no worker", "Internal false: no worker"),
            (json!(500), "broken", "Internal false: broken"),
            (
                json!("422"),
                "image_url is no picture",
                "NodeFailed true: image_url is no picture",
            ),
            (json!("501"), "Refused as NSFW", "NodeFailed true: Refused as NSFW"),
            (Value::Null, "", "NodeFailed true: it failed, and says nothing of why"),
        ] {
            assert_eq!(
                told(&json!({"state": "fail", "failCode": code, "failMsg": words})),
                expected
            );
        }
        assert_eq!(told(&json!({"state": "lost"})), "None");
    }

    #[test]
    fn a_task_has_what_kie_takes() {
        let prompt = Prompt {
            asked: TemplateRequest {
                prompt: "a fox".to_owned(),
                negative_prompt: Some("a dog".to_owned()),
                seed: Some(1 << 40),
                aspect_ratio: Some("16:9".to_owned()),
                steps: Some(20),
                cfg: Some(2.5),
                batch_size: Some(2),
                ..TemplateRequest::default()
            },
            size: Some((1664, 928)),
            is_seed_ours: true,
        };
        let fitted = terms(true, true).fit("a", &prompt);
        assert_eq!(fitted.warnings, [""; 0]);
        let expected = json!({"model": "qwen/image-edit", "input": {
            "prompt": "a fox", "negative_prompt": "a dog", "seed": (1_u64 << 40) % (1 << 31), "image_size": "landscape_16_9",
            "num_inference_steps": 20, "guidance_scale": 2.5, "image_url": "https://a/b.png", "num_images": "2",
            "output_format": "png",
        }});
        assert_eq!(body(&prompt, &fitted, Some("https://a/b.png")), expected);
        let text = body(&prompt, &fitted, None);
        assert_eq!(text["model"], "qwen/text-to-image");
        assert!(text["input"]["num_images"].is_null(), "{text:#}");
    }
}
