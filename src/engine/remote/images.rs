//! An images API of OpenAI's form (platform.openai.com, API reference, images): one request for a picture, whose answer is the
//! picture. There is nothing to ask for later: a request without an answer may have been charged.

use base64::Engine as _;
use reqwest::RequestBuilder;
use reqwest::multipart::{Form, Part};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::list::{Edits, Extra, ImagesApi};
use super::meaning::{refused, unreadable};
use super::output::Text;
use super::terms::{Fitted, Size, Sizes, Terms};
use super::{Refusal, Web};
use crate::encoding::STANDARD;
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Ask, AskedFile, AskedWork, Failed, Link, Made, Prompt};
use crate::job::ImageHeader;

/// What pictures are called whose request names no prefix.
pub(super) const STEM: &str = "ComfyUI";

/// What an API takes.
pub(super) fn terms(api: &ImagesApi) -> Terms {
    let sends = |extra| api.sends.contains(&extra);
    let any = usize::MAX;
    Terms {
        makes: api.model.is_some(),
        most_images: if api.edit_model.is_some() { api.most_images } else { 0 },
        longest_prompt: any,
        longest_negative: sends(Extra::NegativePrompt).then_some(any),
        largest_seed: sends(Extra::Seed).then_some(u64::MAX),
        steps: sends(Extra::Steps).then_some((0, u32::MAX)),
        cfg: sends(Extra::Cfg).then_some((0.0, f64::MAX)),
        most_pictures: if sends(Extra::N) { u32::MAX } else { 1 },
        sizes: Sizes::Sides(api.sides.0, api.sides.1),
    }
}

impl Web {
    pub(super) async fn run_at_images_api(
        &self,
        api: &ImagesApi,
        ask: Ask,
        link: &mut Link<'_>,
    ) -> Result<Made, Failed> {
        let AskedWork::Prompt(prompt) = ask.work else {
            return Err(JobError::internal("an images API runs no graphs").into());
        };
        let (name, job) = (self.spec().name.clone(), link.name().to_owned());
        let fitted = terms(api).fit(&name, &prompt);
        let mut request = self.request(api, &prompt.asked.prompt, &fitted, &ask.files);
        if let Some(traceparent) = link.traceparent() {
            request = request.header("traceparent", traceparent);
        }
        link.is_sent_as(&self.common.ticket(None).text()).await?;
        let sent = Instant::now();
        link.is_taken();
        link.has_begun();
        let stop = link.stop();
        // There is no other way to cancel it than to leave.
        let answer = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(JobError::new(ErrorKind::Cancelled, "The job was cancelled").into()),
            answer = self.send(request, self.spec().timeout) => answer,
        };
        let answer = answer.map_err(|refusal| self.common.refused(&job, refusal))?;
        if !answer.status.is_success() {
            return Err(self.common.refused(&job, refused(&name, &answer)));
        }
        let mut object = answer.whole_object().await;
        let pictures = object
            .as_mut()
            .and_then(|object| object.value.get_mut("data")?.as_array_mut());
        let Some(pictures) = pictures.map(std::mem::take).filter(|pictures| !pictures.is_empty()) else {
            return Err(self.common.refused(&job, Refusal::Unknown(unreadable(&name, &answer))));
        };
        let object = object.unwrap_or_default();
        self.common.rest.took(sent);
        link.is_done_there();
        let prefix = prefix_of(&prompt, &job);
        let mut made = Made {
            // What it chose itself, where it tells.
            seed: object.value.get("seed").and_then(Value::as_u64),
            takes_no_seed: fitted.seed.is_none(),
            warnings: fitted.warnings,
            ..Made::default()
        };
        let held = |mut picture: Value| {
            let mut fields = ["b64_json", "url"].iter();
            fields.find_map(|field| match picture.get_mut(field)?.take() {
                Value::String(text) => Some(object.text(text)),
                _ => None,
            })
        };
        let places: Option<Vec<Text>> = pictures.into_iter().map(held).collect();
        let places = places.ok_or_else(|| self.undeliverable(&job, "holds neither b64_json nor url"))?;
        made.files = link.unless_cancelled(self.pictures_at(places, &prefix, &job)).await?;
        if let Some(number) = fitted.pictures.and_then(|number| usize::try_from(number).ok())
            && made.files.len() < number
        {
            made.warnings.push(format!(
                "engine `{name}` made {} of {number} pictures",
                made.files.len()
            ));
        }
        Ok(made)
    }

    fn request(&self, api: &ImagesApi, prompt: &str, fitted: &Fitted, files: &[AskedFile]) -> RequestBuilder {
        let edits = !files.is_empty();
        let model = if edits { &api.edit_model } else { &api.model };
        let mut fields = fields(api, prompt, fitted);
        if let Some(model) = model {
            fields.insert("model".to_owned(), model.as_str().into());
        }
        if !edits || api.edits == Edits::Json {
            if let [file] = files {
                fields.insert("image".to_owned(), data_uri(file).into());
            } else if edits {
                fields.insert(
                    "image".to_owned(),
                    files.iter().map(data_uri).collect::<Vec<_>>().into(),
                );
            }
            return self.sends.post(self.at("images/generations")).json(&fields);
        }
        let mut form = Form::new();
        for (field, value) in fields {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            form = form.text(field, text);
        }
        // As OpenAI's own clients name one, and several.
        let field = if files.len() > 1 { "image[]" } else { "image" };
        for file in files {
            let media_type = media_type(file);
            let part =
                Part::stream_with_length(file.content.clone(), file.content.len() as u64).file_name(file.name.clone());
            // The types of pictures are types.
            form = match part.mime_str(media_type) {
                Ok(part) => form.part(field, part),
                Err(_) => form,
            };
        }
        self.sends.post(self.at("images/edits")).multipart(form)
    }
}

fn fields(api: &ImagesApi, prompt: &str, fitted: &Fitted) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("prompt", prompt.into());
    if let Some(Size::Pixels(width, height)) = fitted.size {
        put("size", format!("{width}x{height}").into());
    }
    for extra in &api.sends {
        let (name, value) = match extra {
            Extra::Seed => ("seed", fitted.seed.map(Value::from)),
            Extra::N => ("n", fitted.pictures.map(Value::from)),
            Extra::NegativePrompt => ("negative_prompt", fitted.negative_prompt.as_deref().map(Value::from)),
            Extra::Steps => ("num_inference_steps", fitted.steps.map(Value::from)),
            Extra::Cfg => ("guidance_scale", fitted.cfg.map(Value::from)),
            Extra::ResponseFormat => ("response_format", Some("b64_json".into())),
        };
        if let Some(value) = value {
            put(name, value);
        }
    }
    fields
}

/// What the names of a job's pictures begin with, folders included.
pub(super) fn prefix_of(prompt: &Prompt, job: &str) -> String {
    let prefix = prompt.asked.filename_prefix.as_deref().unwrap_or(STEM);
    prefix.replace("{job_id}", job)
}

fn media_type(file: &AskedFile) -> &'static str {
    ImageHeader::read(&file.content).map_or("image/png", |header| header.media_type)
}

pub(super) fn data_uri(file: &AskedFile) -> String {
    format!("data:{};base64,{}", media_type(file), STANDARD.encode(&file.content))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::TemplateRequest;

    #[test]
    fn a_request_has_what_the_api_takes() {
        let prompt = Prompt {
            asked: TemplateRequest {
                prompt: "a fox".to_owned(),
                negative_prompt: Some("a dog".to_owned()),
                seed: Some(7),
                steps: Some(8),
                cfg: Some(2.5),
                ..TemplateRequest::default()
            },
            size: Some((1328, 1328)),
            is_seed_ours: false,
        };
        let fields = |sends: &[Extra]| {
            let api = ImagesApi::of_text(sends);
            let fitted = terms(&api).fit("a", &prompt);
            Value::Object(super::fields(&api, &prompt.asked.prompt, &fitted))
        };
        let all = [
            Extra::Seed,
            Extra::NegativePrompt,
            Extra::Steps,
            Extra::Cfg,
            Extra::ResponseFormat,
        ];
        let expected = json!({
            "prompt": "a fox", "size": "1328x1328", "seed": 7, "negative_prompt": "a dog", "num_inference_steps": 8,
            "guidance_scale": 2.5, "response_format": "b64_json",
        });
        assert_eq!(fields(&all), expected);
        let few = json!({"prompt": "a fox", "size": "1328x1328"});
        assert_eq!(fields(&[]), few);
    }
}
