//! Fields as RunPod's own public endpoints call them, which its provider for the AI SDK sends (npm's `@runpod/ai-sdk-provider`
//! 1.4.0): they mean what they say there.

use serde_json::Value;

use super::fields::{
    AUDIOS, CFG, ENABLE_BASE64_OUTPUT, ENABLE_SAFETY_CHECKER, ENABLE_SYNC_MODE, FILES, GUIDANCE, GUIDANCE_SCALE,
    HEIGHT, IMAGE, IMAGE_URL, IMAGES, NUM_INFERENCE_STEPS, SIZE, STEPS, VIDEOS, WIDTH,
};
use crate::config::ReturnImagesAs;
use crate::dialect::field::{Field, Held};
use crate::dialect::fields::{Fields, describe};
use crate::echo::cut;
use crate::job::Origin;
use crate::workflow::limits;

/// What those fields say of the result.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Its form.
    pub(super) form: Option<ReturnImagesAs>,
    /// Whether the one who asks reads the address of one picture, and nothing else.
    pub(super) picture_url: bool,
    /// Whether the pictures are to be judged.
    pub(super) safety_check: bool,
}

/// Reads what says how the result goes back; `form` is what `return_images_as` says, which comes first.
pub(super) fn wanted(fields: &mut Fields<'_>, form: Option<ReturnImagesAs>) -> Wanted {
    let safety_check = fields.read(&ENABLE_SAFETY_CHECKER);
    let base64 = fields.read(&ENABLE_BASE64_OUTPUT);
    // Whether to wait is for the route to say.
    let waits = fields.read(&ENABLE_SYNC_MODE);
    Wanted {
        form: form.or((base64 == Some(true)).then_some(ReturnImagesAs::Base64)),
        picture_url: safety_check.is_some() || base64.is_some() || waits.is_some(),
        safety_check: safety_check == Some(true),
    }
}

/// Width and height, or `size`: `1024*1024` or `1024x1024`, and `auto` for the template's own.
pub(super) fn sides(fields: &mut Fields<'_>, has_ratio: bool) -> (Option<u32>, Option<u32>) {
    let (width, height) = (fields.read(&WIDTH), fields.read(&HEIGHT));
    let size = fields.read(&SIZE).map(|text| text.trim().to_ascii_lowercase());
    let Some(size) = size.filter(|size| !size.is_empty() && size != "auto") else {
        return (width, height);
    };
    if width.is_some() || height.is_some() || has_ratio {
        let message = "stands beside `width`, `height` or `aspect_ratio`; send one or the other";
        fields.problem(SIZE.name, message);
        return (width, height);
    }
    match limits::parse_size(&size) {
        Some((width, height)) if limits::SIDE.contains(&width) && limits::SIDE.contains(&height) => {
            (Some(width), Some(height))
        }
        Some(_) => {
            let (low, high) = (limits::SIDE.start(), limits::SIDE.end());
            let message = format!(
                "`{}` is out of range: each side must be from {low} to {high} pixels",
                cut(&size)
            );
            fields.problem(SIZE.name, message);
            (None, None)
        }
        None => {
            let message = format!("`{}` is no size; write `1024x1024`, or `auto`", cut(&size));
            fields.problem(SIZE.name, message);
            (None, None)
        }
    }
}

/// `steps`, or `num_inference_steps`.
pub(super) fn steps(fields: &mut Fields<'_>) -> Option<u32> {
    one_of(fields, &STEPS, &[&NUM_INFERENCE_STEPS])
}

/// `cfg`, or `guidance`, or `guidance_scale`.
pub(super) fn cfg(fields: &mut Fields<'_>) -> Option<f64> {
    one_of(fields, &CFG, &[&GUIDANCE, &GUIDANCE_SCALE])
}

/// A field, or one of those that mean the same.
fn one_of<T: Held + PartialEq>(fields: &mut Fields<'_>, field: &Field<T>, others: &[&Field<T>]) -> Option<T> {
    let name = field.name;
    let mut value = fields.read(field);
    for other in others {
        let other_value = fields.read(other);
        if value.is_some() && other_value.is_some() && value != other_value {
            let message = format!("stands beside `{name}`, which means the same, with another value; send one of them");
            fields.problem(other.name, message);
        }
        value = value.or(other_value);
    }
    value
}

/// An image or another file, as a request has it.
pub(super) struct Entry {
    /// The place where it stands.
    pub(super) place: String,
    /// What errors call it after.
    pub(super) origin: Origin,
    /// Its name, where it brings none.
    pub(super) name: String,
    /// The content, or an object with a name and the content.
    pub(super) value: Value,
}

/// The entries of `image`, `image_url` and `images`, and those of `files`, `audios` and `videos`. Each field may be an entry
/// or a list. Names are counted from 1 for each kind.
pub(super) fn files(fields: &mut Fields<'_>) -> Vec<Entry> {
    const KINDS: [(&[Field<Value>], &str); 4] = [
        (&[IMAGE, IMAGE_URL, IMAGES], "image"),
        (&[FILES], "file"),
        (&[AUDIOS], "audio"),
        (&[VIDEOS], "video"),
    ];
    let mut entries = Vec::new();
    for (of_kind, noun) in KINDS {
        let (origin, plural) = match noun {
            "image" => (Origin::Images, "images"),
            _ => (Origin::Files, "files"),
        };
        let mut values = Vec::new();
        for field in of_kind {
            let name = field.name;
            match fields.read(field) {
                None => {}
                Some(Value::Array(items)) => {
                    let items = items.into_iter().enumerate();
                    values.extend(items.map(|(index, item)| (format!("{name}[{index}]"), item)));
                }
                // An object has its name and its content, as those of a list do.
                Some(entry @ (Value::String(_) | Value::Object(_))) => values.push((name.to_owned(), entry)),
                Some(other) => {
                    let shown = describe(&other);
                    let message =
                        format!("must be a list of {plural}, or one: base64, a data URI or a URL, not {shown}");
                    fields.problem(name, message);
                }
            }
        }
        entries.extend((1..).zip(values).map(|(number, (place, value))| Entry {
            place,
            origin: origin.clone(),
            name: format!("{noun}_{number}"),
            value,
        }));
    }
    entries
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::super::input::parse;
    use super::*;
    use crate::error::JobError;
    use crate::job::{JobRequest, TemplateRequest, Work};

    /// A PNG of one pixel.
    const PIXEL: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

    fn read(more: Value) -> Result<JobRequest, JobError> {
        let mut input = Map::new();
        input.insert("prompt".to_owned(), json!("a fox"));
        let Value::Object(more) = more else { panic!("an object") };
        input.extend(more);
        parse(input).map(|(request, _)| request)
    }

    fn template(more: &Value) -> TemplateRequest {
        match read(more.clone())
            .unwrap_or_else(|error| panic!("{more}: {}", error.full_text()))
            .work
        {
            Work::Template(template) => template,
            Work::Workflow(_) | Work::Saved(_) => panic!("a graph"),
        }
    }

    /// As `@runpod/ai-sdk-provider` 1.4.0 sends it for `qwen/qwen-image` and `qwen/qwen-image-edit-2511`.
    #[test]
    fn what_runpods_provider_sends_means_what_it_says() {
        let request = read(json!({
            "negative_prompt": "", "size": "1328*1328", "seed": -1, "enable_safety_checker": true, "image": PIXEL,
            "num_inference_steps": 30, "guidance": 4,
        }))
        .unwrap();
        assert_eq!(request.warnings, [""; 0]);
        assert_eq!(request.images.len(), 1);
        assert!(request.delivery.safety_check && request.delivery.picture_url);
        let Work::Template(template) = request.work else {
            panic!("a graph")
        };
        assert_eq!((template.width, template.height), (Some(1328), Some(1328)));
        assert_eq!(
            (template.seed, template.steps, template.cfg),
            (None, Some(30), Some(4.0))
        );

        let request = read(json!({
            "size": "1024*1024", "seed": 7, "output_format": "jpeg", "enable_base64_output": false,
            "enable_sync_mode": false, "images": [PIXEL, PIXEL],
        }))
        .unwrap();
        assert_eq!(request.warnings, [""; 0]);
        let names: Vec<_> = request.images.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(names, ["image_1", "image_2"]);
        assert_eq!(request.delivery.return_images_as, None);
        assert!(request.delivery.picture_url && !request.delivery.safety_check);
        let base64 = read(json!({"enable_base64_output": true})).unwrap().delivery;
        assert_eq!(base64.return_images_as, Some(ReturnImagesAs::Base64));
        // Who speaks as this worker's README does reads what it says.
        assert!(!read(json!({"size": "64x64"})).unwrap().delivery.picture_url);
    }

    #[test]
    fn each_image_may_be_a_text() {
        for images in [
            json!({"image": PIXEL}),
            json!({"image_url": PIXEL}),
            json!({"images": PIXEL}),
            json!({"image": [PIXEL]}),
            json!({"image": {"name": "a.png", "image": PIXEL}}),
        ] {
            assert_eq!(read(images.clone()).unwrap().images.len(), 1, "{images}");
        }
    }

    #[test]
    fn an_image_is_told_by_the_place_where_it_stands() {
        for (images, place) in [
            (json!({"image": "", "images": [PIXEL]}), "image"),
            (json!({"image": {"name": "a"}}), "image"),
            (json!({"image": PIXEL, "image_url": [PIXEL, ""]}), "image_url[1]"),
            (json!({"image_url": PIXEL, "images": [""]}), "images[0]"),
            (json!({"images": ""}), "images"),
        ] {
            let error = read(images.clone()).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(place), "{images}: {}", error.full_text());
        }
    }

    #[test]
    fn sizes_are_read_in_each_way_of_writing_them() {
        for size in ["64*32", "64x32", " 64X32 "] {
            let template = template(&json!({ "size": size }));
            assert_eq!((template.width, template.height), (Some(64), Some(32)), "{size}");
        }
        assert_eq!(template(&json!({"size": "auto"})).width, None);
    }

    #[test]
    fn a_contradiction_is_refused_with_its_field() {
        for (more, words) in [
            (json!({"size": "64*64", "width": 64}), "size: stands beside `width`"),
            (
                json!({"size": "64*64", "aspect_ratio": "1:1"}),
                "size: stands beside `width`",
            ),
            (
                json!({"size": "64*64", "megapixels": 1}),
                "megapixels: stands beside `width`",
            ),
            (json!({"size": "big"}), "size: `big` is no size"),
            (json!({"size": "8*8"}), "size: `8*8` is out of range"),
            (json!({"size": "16384*16384"}), "megapixels"),
            (
                json!({"steps": 4, "num_inference_steps": 8}),
                "num_inference_steps: stands beside `steps`",
            ),
            (json!({"cfg": 1, "guidance": 4}), "guidance: stands beside `cfg`"),
            (json!({"image": 7}), "image: must be a list of images, or one"),
            (
                json!({"enable_safety_checker": "yes"}),
                "enable_safety_checker: must be true or false",
            ),
            (json!({"seed": -2}), "seed: must be a whole number"),
        ] {
            let error = read(more.clone()).unwrap_err().full_text();
            assert!(error.contains(words), "{more}: {error}");
        }
        assert_eq!(template(&json!({"steps": 4, "num_inference_steps": 4})).steps, Some(4));
    }
}
