//! An images API of OpenAI's form (platform.openai.com, API reference, images): one request for a picture, whose answer is the
//! picture. There is nothing to ask for later: a request without an answer may have been charged.

use base64::Engine as _;
use reqwest::RequestBuilder;
use reqwest::multipart::{Form, Part};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::list::{Edits, Extra, ImagesApi};
use super::meaning::{refused, unreadable};
use super::results::named;
use super::{Refusal, Web};
use crate::encoding::STANDARD;
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Ask, AskedFile, AskedWork, Failed, Link, Made, MadeFile, Prompt, size_of};
use crate::executor::template_of;
use crate::job::{ImageHeader, JobRequest, TemplateRequest, Work};
use crate::workflow::{Template, Templates};

/// What pictures are called whose request names no prefix.
const STEM: &str = "ComfyUI";

/// Why an API cannot do what a request asks for; [`None`]: it can.
pub(super) fn cannot(api: &ImagesApi, request: &JobRequest, templates: &Templates, is_listed: bool) -> Option<String> {
    let Work::Template(asked) = &request.work else {
        return Some("it runs no graphs".to_owned());
    };
    let name = template_of(templates, asked, &request.images);
    // One that does not exist is told of when it is filled.
    let template = templates.get(name)?;
    if !is_listed && !is_plain(template) {
        return Some(format!("it makes no pictures like those of the template `{name}`"));
    }
    let number = request.images.len();
    if number > 0 && api.edit_model.is_none() {
        return Some("it edits no images".to_owned());
    }
    if number == 0 && api.model.is_none() {
        return Some("it makes no pictures from text alone".to_owned());
    }
    if number > api.most_images {
        return Some(format!("it takes {} image(s), not {number}", api.most_images));
    }
    if let Some(field) = not_expressed(api, asked) {
        return Some(format!("it does not take `{field}`"));
    }
    let (least, most) = api.sides;
    if let Some((width, height)) = size_of(template, asked)
        && [width, height].iter().any(|side| !(least..=most).contains(side))
    {
        return Some(format!(
            "it makes pictures of {least} to {most} pixels a side, not {width} x {height}"
        ));
    }
    None
}

/// Whether a template does nothing but what any API of a Qwen-Image model does.
fn is_plain(template: &Template) -> bool {
    template.name().starts_with("qwen-image")
        && !template.has_alpha()
        && !template.needs_mask()
        && template.control_types().is_empty()
}

/// The first field of a request that the API has no place for.
fn not_expressed(api: &ImagesApi, asked: &TemplateRequest) -> Option<&'static str> {
    let sends = |extra| api.sends.contains(&extra);
    let says = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.trim().is_empty());
    let fields = [
        ("loras", !asked.loras.is_empty()),
        ("mask", asked.mask.is_some()),
        ("control", asked.control.is_some()),
        ("layers", asked.layers.is_some()),
        ("denoise", asked.denoise.is_some()),
        ("megapixels", asked.megapixels.is_some()),
        (
            "negative_prompt",
            says(&asked.negative_prompt) && !sends(Extra::NegativePrompt),
        ),
        ("seed", asked.seed.is_some() && !sends(Extra::Seed)),
        ("steps", asked.steps.is_some() && !sends(Extra::Steps)),
        ("cfg", asked.cfg.is_some() && !sends(Extra::Cfg)),
        (
            "batch_size",
            asked.batch_size.is_some_and(|number| number > 1) && !sends(Extra::N),
        ),
    ];
    fields.into_iter().find(|(_, is_lost)| *is_lost).map(|(field, _)| field)
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
        let mut request = self.request(api, &prompt, &ask.files);
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
            .and_then(|object| object.get_mut("data")?.as_array_mut());
        let Some(pictures) = pictures.map(std::mem::take).filter(|pictures| !pictures.is_empty()) else {
            return Err(self.common.refused(&job, Refusal::Unknown(unreadable(&name, &answer))));
        };
        self.common.rest.took(sent);
        link.is_done_there();
        let prefix = prompt
            .asked
            .filename_prefix
            .as_deref()
            .unwrap_or(STEM)
            .replace("{job_id}", &job);
        let (subfolder, stem) = prefix.rsplit_once('/').unwrap_or(("", &prefix));
        let mut made = Made {
            // What it chose itself, where it tells.
            seed: object.as_ref().and_then(|object| object.get("seed")?.as_u64()),
            takes_no_seed: !api.sends.contains(&Extra::Seed),
            ..Made::default()
        };
        let stopped = || JobError::new(ErrorKind::Cancelled, "The job was cancelled");
        for mut picture in pictures {
            let held = ["b64_json", "url"]
                .into_iter()
                .find_map(|field| match picture.get_mut(field)?.take() {
                    Value::String(text) => Some(text),
                    _ => None,
                });
            let held = held.ok_or_else(|| self.undeliverable(&job, "holds neither b64_json nor url"))?;
            let content = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(stopped().into()),
                content = self.content_of(held, &job) => content?,
            };
            made.files.push(MadeFile {
                node_id: None,
                filename: named(&content, stem),
                subfolder: subfolder.to_owned(),
                content,
            });
        }
        if let Some(number) = prompt.asked.batch_size.and_then(|number| usize::try_from(number).ok())
            && made.files.len() < number
        {
            made.warnings.push(format!(
                "engine `{name}` made {} of {number} pictures",
                made.files.len()
            ));
        }
        Ok(made)
    }

    fn request(&self, api: &ImagesApi, prompt: &Prompt, files: &[AskedFile]) -> RequestBuilder {
        let edits = !files.is_empty();
        let model = if edits { &api.edit_model } else { &api.model };
        let mut fields = fields(api, prompt);
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

fn fields(api: &ImagesApi, Prompt { asked, size }: &Prompt) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("prompt", asked.prompt.as_str().into());
    if let Some((width, height)) = size {
        put("size", format!("{width}x{height}").into());
    }
    for extra in &api.sends {
        let (name, value) = match extra {
            Extra::Seed => ("seed", asked.seed.map(Value::from)),
            Extra::N => ("n", asked.batch_size.map(Value::from)),
            Extra::NegativePrompt => ("negative_prompt", asked.negative_prompt.as_deref().map(Value::from)),
            Extra::Steps => ("num_inference_steps", asked.steps.map(Value::from)),
            Extra::Cfg => ("guidance_scale", asked.cfg.map(Value::from)),
            Extra::ResponseFormat => ("response_format", Some("b64_json".into())),
        };
        if let Some(value) = value {
            put(name, value);
        }
    }
    fields
}

fn media_type(file: &AskedFile) -> &'static str {
    ImageHeader::read(&file.content).map_or("image/png", |header| header.media_type)
}

fn data_uri(file: &AskedFile) -> String {
    format!("data:{};base64,{}", media_type(file), STANDARD.encode(&file.content))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::Delivery;

    fn api(sends: &[Extra]) -> ImagesApi {
        ImagesApi {
            model: Some("m".to_owned()),
            edit_model: None,
            edits: Edits::Form,
            sends: sends.to_vec(),
            sides: (256, 1536),
            most_images: 1,
        }
    }

    fn told(api: &ImagesApi, asked: TemplateRequest) -> Option<String> {
        let request = JobRequest {
            work: Work::Template(asked),
            images: Vec::new(),
            delivery: Delivery::default(),
            org_api_key: None,
            extra_data: Map::new(),
            warnings: Vec::new(),
        };
        cannot(api, &request, &Templates::embedded().unwrap(), false)
    }

    #[test]
    fn what_it_cannot_express_is_told() {
        let asked = TemplateRequest {
            prompt: "a fox".to_owned(),
            ..TemplateRequest::default()
        };
        assert_eq!(told(&api(&[]), asked.clone()), None);
        let seeded = TemplateRequest {
            seed: Some(7),
            ..asked.clone()
        };
        assert_eq!(told(&api(&[]), seeded.clone()).unwrap(), "it does not take `seed`");
        assert_eq!(told(&api(&[Extra::Seed]), seeded), None);
        let large = TemplateRequest {
            width: Some(2048),
            ..asked.clone()
        };
        assert!(
            told(&api(&[]), large)
                .unwrap()
                .contains("256 to 1536 pixels a side, not 2048")
        );
        let layered = TemplateRequest {
            template: Some("qwen-image-layered-text".to_owned()),
            ..asked.clone()
        };
        assert!(told(&api(&[]), layered).unwrap().contains("qwen-image-layered-text"));
        let other = TemplateRequest {
            template: Some("z-image-turbo".to_owned()),
            ..asked
        };
        assert!(told(&api(&[]), other).unwrap().contains("z-image-turbo"));
    }

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
        assert_eq!(Value::Object(fields(&api(&all), &prompt)), expected);
        let few = json!({"prompt": "a fox", "size": "1328x1328"});
        assert_eq!(Value::Object(fields(&api(&[]), &prompt)), few);
    }
}
