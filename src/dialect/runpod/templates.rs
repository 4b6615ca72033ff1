//! The templates as `/templates` tells them: what each is good for, and what a request may say to it.

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::fields::{
    ASPECT_RATIO, BATCH_SIZE, CFG, DENOISE, HEIGHT, IMAGES, LORAS, MASK, MEGAPIXELS, NEGATIVE_PROMPT, PROMPT, SEED,
    STEPS, WIDTH,
};
use crate::dialect::answer::Answer;
use crate::dialect::field::Described;
use crate::dialect::openai::{self, AskedAs};
use crate::dialect::schema::Schema;
use crate::workflow::bindings::Kind;
use crate::workflow::{Defaults, Lacking, Template, limits};

/// The fields of `input` that a template may have a place for, in the order of a form. Those that mean the same as one of
/// these are left out.
const FIELDS: &[&dyn Described] = &[
    &PROMPT,
    &NEGATIVE_PROMPT,
    &IMAGES,
    &MASK,
    &ASPECT_RATIO,
    &WIDTH,
    &HEIGHT,
    &MEGAPIXELS,
    &SEED,
    &STEPS,
    &CFG,
    &DENOISE,
    &BATCH_SIZE,
    &LORAS,
];

/// What `/templates` answers.
#[derive(Serialize, ToSchema)]
pub struct Templates<'a> {
    templates: Vec<TemplateBody<'a>>,
}

/// A template.
#[derive(Serialize, ToSchema)]
#[schema(as = Template)]
struct TemplateBody<'a> {
    /// What a request names it by.
    name: &'a str,
    /// What it is, for people.
    title: &'a str,
    /// What to choose it for.
    #[serde(skip_serializing_if = "Option::is_none")]
    good_for: Option<&'a str>,
    #[schema(schema_with = kinds)]
    kind: Kind,
    /// Whether it is taken where a request names none: one without images, or one with them.
    default: bool,
    images: Images,
    /// Whether it takes a mask.
    mask: bool,
    /// Whether its models are there, or are fetched for the first job; absent while ComfyUI cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    available: Option<bool>,
    /// The models that are not there.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    missing_models: &'a [String],
    /// Width and height in pixels for each `aspect_ratio`, where it takes one.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    #[schema(value_type = Object)]
    sizes: IndexMap<&'static str, (u32, u32)>,
    /// What OpenAI's API has it as, where that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    openai: Option<AskedAs>,
    /// What `input` of a request may hold for it, as a JSON Schema. A `default` is what its graph has.
    #[schema(value_type = Object)]
    input: Value,
}

/// How many images a template needs and takes.
#[derive(Serialize, ToSchema)]
#[schema(as = ImageCount)]
struct Images {
    at_least: usize,
    at_most: usize,
}

fn kinds() -> Schema {
    Schema::one_of(["generate", "edit"])
}

/// The templates, each with what ComfyUI lacks for it, where that is known.
pub fn templates<'a>(
    defaults: Defaults,
    templates: impl Iterator<Item = (&'a Template, Option<&'a Lacking>)>,
) -> Answer {
    let templates = templates
        .map(|(template, lacking)| body(defaults, template, lacking))
        .collect();
    Answer::json(200, &Templates { templates })
}

fn body<'a>(defaults: Defaults, template: &'a Template, lacking: Option<&'a Lacking>) -> TemplateBody<'a> {
    let (at_least, at_most) = template.images().into_inner();
    let ratios = limits::aspect_ratios().filter(|_| takes(template, ASPECT_RATIO.name));
    let sizes = ratios.filter_map(|ratio| Some((ratio, template.size_for_aspect_ratio(ratio)?)));
    TemplateBody {
        name: template.name(),
        title: template.title(),
        good_for: template.good_for(),
        kind: template.kind(),
        default: [defaults.generate, defaults.edit].contains(&template.name()),
        images: Images { at_least, at_most },
        mask: template.takes(MASK.name),
        available: lacking.map(|lacking| lacking.models.is_empty() || lacking.obtainable),
        missing_models: lacking.map_or(&[], |lacking| &lacking.models),
        sizes: sizes.collect(),
        openai: openai::asked_as(template.name()),
        input: input(template),
    }
}

fn takes(template: &Template, field: &str) -> bool {
    // A ratio becomes a width and a height.
    let field = if field == ASPECT_RATIO.name { WIDTH.name } else { field };
    template.takes(field)
}

fn input(template: &Template) -> Value {
    let fields = FIELDS.iter().filter(|field| takes(template, field.name()));
    let input = fields.fold(Schema::object(), |input, field| {
        let name = field.name();
        let mut schema = field.schema();
        if name == IMAGES.name {
            let (at_least, at_most) = template.images().into_inner();
            schema = Schema::list(Schema::picture())
                .means(IMAGES.meaning())
                .with("minItems", at_least)
                .with("maxItems", at_most);
        }
        // The prompt and the name of a file in the graph are examples.
        if name != PROMPT.name
            && name != SEED.name
            && let Some(usual) = template.usual(name)
        {
            schema = schema.or(usual.clone());
        }
        if name == PROMPT.name || (name == IMAGES.name && *template.images().start() > 0) {
            input.needs(name, schema)
        } else {
            input.takes(name, schema)
        }
    });
    input.into_value()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::dialect::field::names;
    use crate::dialect::runpod::fields::OF_TEMPLATE;
    use crate::workflow::Templates as Loaded;

    fn told() -> Value {
        let loaded = Loaded::embedded().unwrap();
        let lacking = Lacking {
            models: vec!["a.safetensors".to_owned()],
            obtainable: true,
        };
        let answer = templates(
            loaded.defaults(),
            loaded.iter().map(|template| (template, Some(&lacking))),
        );
        serde_json::from_slice(&answer.to_vec()).unwrap()
    }

    fn template<'a>(told: &'a Value, name: &str) -> &'a Value {
        let templates = told["templates"].as_array().unwrap();
        templates.iter().find(|template| template["name"] == name).unwrap()
    }

    #[test]
    fn every_template_is_told_with_what_it_is_good_for_and_what_it_takes() {
        let loaded = Loaded::embedded().unwrap();
        let told = told();
        assert_eq!(told["templates"].as_array().unwrap().len(), loaded.iter().count());
        for template in told["templates"].as_array().unwrap() {
            let name = &template["name"];
            assert!(
                template["good_for"].as_str().is_some_and(|text| text.len() < 100),
                "{name}"
            );
            assert_eq!(template["available"], true, "{name}");
            for field in [
                "prompt",
                "negative_prompt",
                "seed",
                "steps",
                "cfg",
                "batch_size",
                "width",
                "loras",
            ] {
                let schema = &template["input"]["properties"][field];
                assert!(schema.is_object(), "{name}: {field}");
            }
            assert_eq!(template["sizes"]["16:9"], json!([1664, 928]), "{name}");
            assert_eq!(template["mask"], template["kind"] == "edit", "{name}");
            assert!(template["openai"]["model"].is_string(), "{name}");
        }
    }

    #[test]
    fn limits_are_those_of_requests_and_defaults_those_of_the_graph() {
        let told = told();
        let usual = template(&told, Defaults::default().generate);
        let steps = &usual["input"]["properties"]["steps"];
        assert_eq!((&steps["minimum"], &steps["maximum"]), (&json!(1), &json!(10_000)));
        assert_eq!(steps["default"], 8);
        assert_eq!(usual["images"], json!({"at_least": 0, "at_most": 0}));
        assert_eq!(usual["default"], true);
        assert_eq!(
            usual["openai"],
            json!({"model": "Qwen/Qwen-Image", "quality": "medium"})
        );
        assert_eq!(usual["input"]["properties"].get("images"), None);
        assert_eq!(usual["input"]["properties"].get("megapixels"), None);
        assert_eq!(usual["input"]["required"], json!(["prompt"]));
        let editing = template(&told, Defaults::default().edit);
        assert_eq!(editing["images"], json!({"at_least": 1, "at_most": 3}));
        assert_eq!(editing["input"]["properties"]["images"]["maxItems"], 3);
        assert_eq!(editing["input"]["required"], json!(["prompt", "images"]));
        assert!(editing["input"]["properties"]["megapixels"].is_object());
    }

    #[test]
    fn no_field_of_a_template_is_forgotten() {
        let told = names(FIELDS);
        let others = ["template", "size", "num_inference_steps", "guidance", "guidance_scale"];
        for name in names(OF_TEMPLATE) {
            assert!(told.contains(&name) || others.contains(&name), "{name}");
        }
    }
}
