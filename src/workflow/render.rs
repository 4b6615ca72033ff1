//! From a template and a request's parameters to a graph; [`Template::render`] tells what comes out.

use serde_json::{Value, json};

use super::bindings::Field;
use super::control::ControlType;
use super::graph::{Graph, Link, Node};
use super::prepare;
use super::template::{Parameters, Template};
use crate::error::{ErrorKind, JobError, Problem};

/// Whether a template has a place for a field of a request.
pub(super) fn takes(template: &Template, field: &str) -> bool {
    let bindings = &template.bindings;
    match field {
        "loras" => bindings.loras.is_some(),
        "images" => bindings.images.is_some(),
        "megapixels" => bindings.size.is_some() || (bindings.images.is_some() && bindings.latent.is_some()),
        "mask" => bindings.mask.is_some() || prepare::limits_sampler(template),
        "control" => bindings.control.is_some(),
        _ => all_fields(&Parameters::default())
            .into_iter()
            .any(|(known, _)| known.to_string() == field && has_place(template, known)),
    }
}

impl Template {
    /// The graph for a request. The error lists every parameter for which the template has no place.
    ///
    /// The size comes out exactly as asked. Latents go by 16 pixels, so a size between is generated larger and an
    /// `ImageCrop` node before the output cuts it, centred. Where the size follows from the image (edit templates), a
    /// given width and height replace what the sampler starts from by an empty latent of that size: at `denoise` 1 only
    /// its size counts, and the images still guide the sampler as references. Below that the first image is scaled and cut to the
    /// size. One side alone is refused there. With a mask the picture keeps the image's shape, and is scaled and cut to the size
    /// at the end. Where the size is that of a picture (`[size]` of the bindings), that picture is scaled and cut first.
    pub fn render(&self, parameters: &Parameters) -> Result<Graph, JobError> {
        let problems = mistakes(self, parameters);
        if !problems.is_empty() {
            let message = format!("template `{}` cannot do what is asked", self.name);
            return Err(JobError::new(ErrorKind::InvalidRequest, message).problems(problems));
        }
        let mut graph = self.graph.clone();
        for (field, value) in all_fields(parameters) {
            if let Some(value) = value {
                for place in self.bindings.places(field) {
                    set(&mut graph, &place.node, &place.input, value.clone());
                }
            }
        }
        if self.bindings.size.is_some() {
            prepare::set_size(&mut graph, self, parameters);
            repeat_latent(&mut graph, self, parameters);
        } else if parameters.megapixels.is_some() {
            set_megapixels(&mut graph, self, parameters);
        } else {
            set_size(&mut graph, self, parameters);
        }
        set_images(&mut graph, self, parameters);
        prepare::set_mask(&mut graph, self, parameters);
        prepare::set_control(&mut graph, self, parameters);
        add_loras(&mut graph, self, parameters);
        Ok(graph)
    }
}

/// Each field with its value in the request, as JSON.
fn all_fields(parameters: &Parameters) -> [(Field, Option<Value>); 14] {
    let p = parameters;
    [
        (Field::Prompt, Some(Value::from(p.prompt.as_str()))),
        (Field::NegativePrompt, p.negative_prompt.as_deref().map(Value::from)),
        (Field::Seed, Some(Value::from(p.seed))),
        (Field::Steps, p.steps.map(Value::from)),
        (Field::Cfg, p.cfg.map(Value::from)),
        (Field::Sampler, p.sampler.as_deref().map(Value::from)),
        (Field::Scheduler, p.scheduler.as_deref().map(Value::from)),
        (Field::Denoise, p.denoise.map(Value::from)),
        (Field::Shift, p.shift.map(Value::from)),
        (Field::Width, p.width.map(Value::from)),
        (Field::Height, p.height.map(Value::from)),
        (Field::BatchSize, p.batch_size.map(Value::from)),
        (Field::Layers, p.layers.map(Value::from)),
        (Field::FilenamePrefix, p.filename_prefix.as_deref().map(Value::from)),
    ]
}

fn has_place(template: &Template, field: Field) -> bool {
    let bindings = &template.bindings;
    let other = match field {
        Field::Width | Field::Height => bindings.latent.is_some() || bindings.size.is_some(),
        Field::BatchSize => bindings.latent.is_some(),
        _ => false,
    };
    other || !bindings.places(field).is_empty()
}

/// Everything that the request asks and the template cannot do.
fn mistakes(template: &Template, parameters: &Parameters) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut complain = |input: &str, message: String| {
        problems.push(Problem {
            input: Some(input.to_owned()),
            message,
            ..Problem::default()
        });
    };
    let name = &template.name;
    let no_place = || format!("template `{name}` has no place for it");
    for (field, value) in all_fields(parameters) {
        // Every request has a seed; a template without a place for it is no mistake of the request.
        if value.is_some() && field != Field::Seed && !has_place(template, field) {
            complain(&field.to_string(), no_place());
        }
    }
    let has_size = template.bindings.size.is_some();
    let follows_image =
        template.bindings.places(Field::Width).is_empty() && (template.bindings.latent.is_some() || has_size);
    if follows_image && parameters.width.is_some() != parameters.height.is_some() {
        let missing = if parameters.width.is_some() { "height" } else { "width" };
        complain(
            missing,
            format!(
                "is missing: with template `{name}` width and height go together (without both, the size follows from the image)"
            ),
        );
    }
    let asks_size = parameters.width.is_some() || parameters.height.is_some();
    if follows_image && !has_size && asks_size && keeps_some(parameters) && encoded_image(template).is_none() {
        complain(
            "denoise",
            format!("below 1, template `{name}` starts from the image and keeps its size: leave out width and height"),
        );
    }
    if parameters.mask.is_some() && !takes(template, "mask") {
        complain("mask", no_place());
    }
    if parameters.megapixels.is_some() {
        if !takes(template, "megapixels") {
            complain("megapixels", no_place());
        }
        if asks_size {
            complain(
                "megapixels",
                "stands beside width or height; send one or the other".to_owned(),
            );
        }
        if parameters.mask.is_some() && !has_size {
            complain(
                "megapixels",
                "stands beside a mask, with which the image keeps its size".to_owned(),
            );
        }
    }
    if let Some(control) = &parameters.control {
        let types = template.control_types();
        if !takes(template, "control") {
            complain("control", no_place());
        } else if let Some(kind) = control
            .kind
            .filter(|kind| *kind != ControlType::Ready && !types.contains(kind))
        {
            let known: Vec<_> = types.iter().map(|kind| kind.as_str()).collect();
            let (kind, known) = (kind.as_str(), known.join(", "));
            complain(
                "control.type",
                format!(
                    "template `{name}` does not know `{kind}`; it knows {known}, and `ready` for a picture that is one already"
                ),
            );
        }
    }
    if !parameters.loras.is_empty() && !takes(template, "loras") {
        complain("loras", no_place());
    }
    let (count, range) = (parameters.images.len(), template.images());
    if count > 0 && !takes(template, "images") {
        complain("images", no_place());
    } else if !range.contains(&count) {
        let (least, most) = range.into_inner();
        let wanted = if least == most {
            least.to_string()
        } else {
            format!("{least} to {most}")
        };
        complain(
            "images",
            format!("template `{name}` takes {wanted}, and the request has {count}"),
        );
    }
    problems
}

/// Whether something of the image that the sampler starts from is to stay.
fn keeps_some(parameters: &Parameters) -> bool {
    parameters.denoise.is_some_and(|denoise| denoise < 1.0)
}

/// The first image, where the sampler starts from it as a `VAEEncode` node encodes it.
fn encoded_image(template: &Template) -> Option<&str> {
    let latent = template.graph.get(&template.bindings.latent.as_ref()?.node)?;
    let encodes = latent.class_type == "VAEEncode" && latent.inputs.contains_key("pixels");
    let first = template.bindings.images.as_ref()?.nodes.first()?;
    encodes.then_some(first)
}

pub(super) fn set(graph: &mut Graph, node: &str, input: &str, value: Value) {
    if let Some(node) = graph.get_mut(node) {
        node.inputs.insert(input.to_owned(), value);
    }
}

pub(super) fn node<const N: usize>(class: &str, inputs: [(&str, Value); N]) -> Node {
    let inputs = inputs.map(|(name, value)| (name.to_owned(), value));
    Node::new(class, inputs.into_iter().collect())
}

/// Lets the sampler start from an empty latent.
fn set_empty_latent(graph: &mut Graph, template: &Template, parameters: &Parameters, width: Value, height: Value) {
    let latent = template.bindings.latent.as_ref();
    if let Some(latent) = latent.and_then(|latent| graph.get_mut(&latent.node)) {
        let batch_size = Value::from(parameters.batch_size.unwrap_or(1));
        let inputs = [("width", width), ("height", height), ("batch_size", batch_size)];
        *latent = node("EmptySD3LatentImage", inputs);
    }
}

/// Lets the sampler start from an empty latent of so many megapixels with the aspect of the first image. ComfyUI has the
/// image, and a camera's note how it is to be turned: it does the sums, in whole steps of the latent.
fn set_megapixels(graph: &mut Graph, template: &Template, parameters: &Parameters) {
    let (Some(megapixels), Some(images)) = (parameters.megapixels, &template.bindings.images) else {
        return;
    };
    let Some(first) = images.nodes.first() else { return };
    let (scaled, size) = (graph.free_id("megapixels"), graph.free_id("size"));
    let scale = [
        ("image", json!([first, 0])),
        // Only its size is used.
        ("upscale_method", Value::from("nearest-exact")),
        ("megapixels", Value::from(megapixels)),
        ("resolution_steps", Value::from(template.bindings.step)),
    ];
    let measure = node("GetImageSize", [("image", json!([scaled, 0]))]);
    graph.nodes.insert(scaled, node("ImageScaleToTotalPixels", scale));
    graph.nodes.insert(size.clone(), measure);
    set_empty_latent(graph, template, parameters, json!([size, 0]), json!([size, 1]));
}

/// Sizes and batch. The places were set to the exact size; here they go up to the next step, and the crop comes in.
fn set_size(graph: &mut Graph, template: &Template, parameters: &Parameters) {
    let bindings = &template.bindings;
    let default = |field| u32::try_from(template.default(field)?.as_u64()?).ok();
    let size = (
        parameters.width.or_else(|| default(Field::Width)),
        parameters.height.or_else(|| default(Field::Height)),
    );
    if parameters.mask.is_none()
        && let (Some(width), Some(height)) = size
    {
        let whole = prepare::whole(template, (width, height));
        if bindings.places(Field::Width).is_empty()
            && keeps_some(parameters)
            && let (Some(latent), Some(image)) = (&bindings.latent, encoded_image(template))
        {
            let mut scale = scaling(whole);
            scale.inputs.insert("image".to_owned(), json!([image, 0]));
            let id = graph.free_id("scale");
            set(graph, &latent.node, "pixels", json!([id, 0]));
            graph.nodes.insert(id, scale);
            repeat_latent(graph, template, parameters);
        } else if bindings.places(Field::Width).is_empty() {
            // The exact size of a picture that would otherwise follow from the image.
            set_empty_latent(graph, template, parameters, Value::from(whole.0), Value::from(whole.1));
        } else {
            for (field, value) in [(Field::Width, whole.0), (Field::Height, whole.1)] {
                for place in bindings.places(field) {
                    set(graph, &place.node, &place.input, Value::from(value));
                }
            }
        }
        if whole != (width, height) {
            add_crop(graph, template, (width, height), whole);
        }
    } else {
        repeat_latent(graph, template, parameters);
    }
    if parameters.mask.is_some()
        && let (Some(width), Some(height)) = size
    {
        put_before_output(graph, template, "scale", scaling((width, height)));
    }
}

/// Makes several pictures from a latent that has no number of them.
fn repeat_latent(graph: &mut Graph, template: &Template, parameters: &Parameters) {
    let bindings = &template.bindings;
    if let (Some(latent), Some(batch_size @ 2..)) = (&bindings.latent, parameters.batch_size)
        && bindings.places(Field::BatchSize).is_empty()
    {
        let id = graph.free_id("batch");
        redirect(graph, &latent.node, &id);
        let repeated = [
            ("samples", json!([latent.node, 0])),
            ("amount", Value::from(batch_size)),
        ];
        graph.nodes.insert(id, node("RepeatLatentBatch", repeated));
    }
}

/// Scales its input `image` to a size, and cuts what is too much of the shape.
pub(super) fn scaling(size: (u32, u32)) -> Node {
    let inputs = [
        ("upscale_method", Value::from("lanczos")),
        ("width", Value::from(size.0)),
        ("height", Value::from(size.1)),
        ("crop", Value::from("center")),
    ];
    node("ImageScale", inputs)
}

/// Puts a node before the output that makes other pictures of its input `image`.
pub(super) fn put_before_output(graph: &mut Graph, template: &Template, name: &str, mut node: Node) {
    let id = graph.free_id(name);
    let output = &template.bindings.output;
    let Some(pictures) = graph
        .get_mut(&output.node)
        .and_then(|node| node.inputs.insert(output.images.clone(), json!([id, 0])))
    else {
        return;
    };
    node.inputs.insert("image".to_owned(), pictures);
    graph.nodes.insert(id, node);
}

/// Puts an `ImageCrop` before the output that cuts `whole` to `size`, centred.
pub(super) fn add_crop(graph: &mut Graph, template: &Template, size: (u32, u32), whole: (u32, u32)) {
    let crop = [
        ("width", Value::from(size.0)),
        ("height", Value::from(size.1)),
        ("x", Value::from((whole.0 - size.0) / 2)),
        ("y", Value::from((whole.1 - size.1) / 2)),
    ];
    put_before_output(graph, template, "crop", node("ImageCrop", crop));
}

/// Gives each image to its node and takes out the nodes for which there is none.
fn set_images(graph: &mut Graph, template: &Template, parameters: &Parameters) {
    let Some(binding) = &template.bindings.images else {
        return;
    };
    let mut images = parameters.images.iter();
    for id in &binding.nodes {
        match images.next() {
            Some(image) => set(graph, id, "image", Value::from(image.as_str())),
            None => graph.remove(id),
        }
    }
}

/// What the ids of the nodes begin with that load a request's LoRAs; their numbers follow.
pub const USER_LORA: &str = "user-lora-";

/// Chains the LoRAs to the template's model, so that everything that took the model takes the last of the chain.
fn add_loras(graph: &mut Graph, template: &Template, parameters: &Parameters) {
    let Some(binding) = &template.bindings.loras else {
        return;
    };
    let mut chain = Vec::new();
    let mut model = binding.after.clone();
    for (number, lora) in (1..).zip(&parameters.loras) {
        let id = graph.free_id(&format!("{USER_LORA}{number}"));
        let loader = [
            ("model", json!([model, 0])),
            ("lora_name", Value::from(lora.name.as_str())),
            ("strength_model", Value::from(lora.strength)),
        ];
        chain.push((id.clone(), node("LoraLoaderModelOnly", loader)));
        model = id;
    }
    redirect(graph, &binding.after, &model);
    graph.nodes.extend(chain);
}

/// Makes every link to output 0 of `from` a link to output 0 of `to`.
pub(super) fn redirect(graph: &mut Graph, from: &str, to: &str) {
    for node in graph.nodes.values_mut() {
        for (input, value) in &mut node.inputs {
            if Link::parse(input, value).is_some_and(|link| link.source == from && link.index() == Some(0)) {
                *value = json!([to, 0]);
            }
        }
    }
}
