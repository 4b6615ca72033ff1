//! The templates as `/templates` tells them: what each is good for, and what a request may say to it.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::fields::{
    ASPECT_RATIO, BATCH_SIZE, CFG, CONTROL, DENOISE, HEIGHT, IMAGES, LAYERS, LORAS, MASK, MEGAPIXELS, NEGATIVE_PROMPT,
    PROMPT, SEED, STEPS, WIDTH,
};
use crate::dialect::answer::Answer;
use crate::dialect::field::Described;
use crate::dialect::openai::{self, AskedAs};
use crate::dialect::schema::Schema;
use crate::workflow::bindings::Kind;
use crate::workflow::{Defaults, Lacking, ModelCatalog, Template, limits};

/// The fields of `input` that a template may have a place for, in the order of a form. Those that mean the same as one of
/// these are left out.
const FIELDS: &[&dyn Described] = &[
    &PROMPT,
    &NEGATIVE_PROMPT,
    &IMAGES,
    &MASK,
    &CONTROL,
    &ASPECT_RATIO,
    &WIDTH,
    &HEIGHT,
    &MEGAPIXELS,
    &SEED,
    &STEPS,
    &CFG,
    &DENOISE,
    &BATCH_SIZE,
    &LAYERS,
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
    /// The model files that its graph names.
    models: Vec<ModelBody<'a>>,
    /// What they come to in GB, rounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_gb: Option<u32>,
    /// The memory in GB of the smallest card that has room for each of them whole, worked out from their sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    card_gb: Option<u32>,
    /// Whether this worker's card has room for each of them whole; else some of the weights go to the card in each step, which
    /// takes longer. Absent where no NVIDIA card is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    fits: Option<bool>,
    /// Why the installed ComfyUI cannot run it, where it is too old.
    #[serde(skip_serializing_if = "Option::is_none")]
    too_old: Option<&'a str>,
    /// The kinds of control picture that it takes as `control.type`, the usual one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    control_types: Vec<&'static str>,
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

/// A model file of a template.
#[derive(Serialize, ToSchema)]
#[schema(as = TemplateModel)]
struct ModelBody<'a> {
    /// Its name, as the graph has it.
    name: String,
    /// The folder of ComfyUI's models folder that it belongs in, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    folder: Option<&'a str>,
    /// Its size, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// The short name of its licence, where that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    licence: Option<&'a str>,
    /// Whether the licence is to be accepted by `ACCEPT_LICENSES` before the file is fetched.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    to_be_accepted: bool,
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

/// What templates are told by, beside themselves.
#[derive(Debug, Clone, Copy)]
pub struct WorkerFacts<'a> {
    /// The templates of requests that name none.
    pub defaults: Defaults,
    /// The models that are known.
    pub catalog: &'a ModelCatalog,
    /// The memory of ComfyUI's card in MiB, where there is one.
    pub card_mib: Option<u64>,
}

/// The templates, each with what ComfyUI lacks for it, where that is known.
pub fn templates<'a>(
    worker: &WorkerFacts<'a>,
    templates: impl Iterator<Item = (&'a Template, Option<&'a Lacking>)>,
) -> Answer {
    let templates = templates
        .map(|(template, lacking)| body(worker, template, lacking))
        .collect();
    Answer::json(200, &Templates { templates })
}

fn models<'a>(template: &'a Template, catalog: &'a ModelCatalog) -> Vec<ModelBody<'a>> {
    let names = BTreeSet::from_iter(template.graph().model_names());
    let body = |name: String| {
        let file = catalog.lookup(&name);
        ModelBody {
            name,
            folder: file.map(|file| file.folder.as_str()),
            bytes: file.and_then(|file| file.size),
            licence: file.and_then(|file| catalog.licence(file)),
            to_be_accepted: file.is_some_and(|file| catalog.unaccepted(file).is_some()),
        }
    };
    names.into_iter().map(body).collect()
}

fn body<'a>(worker: &WorkerFacts<'a>, template: &'a Template, lacking: Option<&'a Lacking>) -> TemplateBody<'a> {
    let defaults = worker.defaults;
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
        available: lacking
            .map(|lacking| lacking.too_old.is_none() && (lacking.models.is_empty() || lacking.obtainable)),
        models: models(template, worker.catalog),
        disk_gb: template.disk_gb(),
        card_gb: template.card_gb(),
        fits: worker.card_mib.and_then(|card_mib| template.fits(card_mib)),
        too_old: lacking.and_then(|lacking| lacking.too_old.as_deref()),
        control_types: template.control_types().iter().map(|kind| kind.as_str()).collect(),
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
            ..Lacking::default()
        };
        let catalog = ModelCatalog::builtin().unwrap();
        let worker = WorkerFacts {
            defaults: loaded.defaults(),
            catalog: &catalog,
            card_mib: Some(12 * 1024 - 300),
        };
        let answer = templates(&worker, loaded.iter().map(|template| (template, Some(&lacking))));
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
            for field in ["prompt", "seed", "cfg", "width", "loras"] {
                let schema = &template["input"]["properties"][field];
                assert!(schema.is_object(), "{name}: {field}");
            }
            assert!(template["sizes"]["16:9"].is_array(), "{name}");
            let takes = |field: &str| template["input"]["properties"].get(field).is_some();
            assert_eq!(template["mask"], takes("mask"), "{name}");
            assert_eq!(template.get("control_types").is_some(), takes("control"), "{name}");
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
    fn the_models_of_a_template_are_told_with_their_licences_and_the_card_that_has_room_for_them() {
        let told = told();
        for template in told["templates"].as_array().unwrap() {
            let name = &template["name"];
            let models = template["models"].as_array().unwrap();
            assert!(models.len() >= 3, "{name}");
            assert!(
                models.iter().all(|model| model["folder"].is_string()),
                "{name}: {models:?}"
            );
            assert!(
                template["disk_gb"].as_u64() > template["card_gb"].as_u64().map(|gb| gb / 2),
                "{name}"
            );
            let is_newest = name.as_str().is_some_and(|name| name.starts_with("qwen-image-2.1"));
            let accepts = models.iter().any(|model| model["to_be_accepted"] == true);
            assert_eq!(accepts, is_newest, "{name}");
        }
        let small = template(&told, "z-image-turbo-int8");
        assert_eq!((&small["card_gb"], &small["fits"]), (&json!(8), &json!(true)));
        let model = json!({"name": "ae.safetensors", "folder": "vae", "bytes": 335_304_388, "licence": "apache-2.0"});
        assert!(small["models"].as_array().unwrap().contains(&model), "{small:#}");
        assert_eq!(template(&told, "qwen-image")["fits"], false);
    }

    #[test]
    fn what_steers_a_template_is_told() {
        let told = told();
        let control = template(&told, "z-image-turbo-controlnet");
        assert_eq!(
            control["control_types"],
            json!(["canny", "softedge", "depth", "pose", "mlsd"])
        );
        let layers = &template(&told, "qwen-image-layered")["input"]["properties"]["layers"];
        assert_eq!((&layers["default"], &layers["maximum"]), (&json!(2), &json!(16)));
        assert_eq!(
            template(&told, "qwen-image-inpaint")["openai"]["model"],
            "Qwen/Qwen-Image"
        );
        assert_eq!(template(&told, "z-image-turbo")["sizes"]["16:9"], json!([1344, 768]));
    }

    #[test]
    fn what_is_too_old_is_not_there() {
        let loaded = Loaded::embedded().unwrap();
        let lacking = Lacking {
            too_old: Some("template `qwen-image-2.1` needs ComfyUI 0.37; this is 0.30.0".to_owned()),
            ..Lacking::default()
        };
        let catalog = ModelCatalog::builtin().unwrap();
        let worker = WorkerFacts {
            defaults: Defaults::default(),
            catalog: &catalog,
            card_mib: None,
        };
        let told = templates(&worker, loaded.iter().map(|template| (template, Some(&lacking))));
        let told: Value = serde_json::from_slice(&told.to_vec()).unwrap();
        let newer = template(&told, "qwen-image-2.1");
        assert_eq!(newer["available"], false);
        assert_eq!(newer.get("fits"), None);
        assert!(newer["too_old"].as_str().is_some_and(|why| why.contains("0.37")));
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
