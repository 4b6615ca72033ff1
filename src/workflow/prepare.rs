//! What stands between a picture of the request and what takes it: how it is scaled where it gives the size, what its mask
//! marks, and how a control picture is drawn from it.

use serde_json::{Value, json};

use super::bindings::Field;
use super::control::{ControlType, Preprocessor};
use super::graph::{Graph, Node};
use super::limits::MEGAPIXEL;
use super::render::{add_crop, node, put_before_output, redirect, scaling, set};
use super::template::{Parameters, Template};

/// The shorter side in pixels of what a preprocessor draws: about that of the models' usual pictures.
const DRAWN_SIDE: u32 = 1024;

/// A size in whole steps of what is sampled, as large as the one asked for at least.
pub(super) fn whole(template: &Template, (width, height): (u32, u32)) -> (u32, u32) {
    let step = template.bindings.step.max(1);
    (width.next_multiple_of(step), height.next_multiple_of(step))
}

/// Whether a mask limits what the sampler changes of the first image, without which it changes all.
pub(super) fn limits_sampler(template: &Template) -> bool {
    let bindings = &template.bindings;
    bindings.latent.is_some() && bindings.control.is_none() && bindings.places(Field::Width).is_empty()
}

/// Scales its input `image` to so many megapixels, in its own shape but for whole steps.
fn scaling_to(megapixels: f64, step: u32) -> Node {
    let inputs = [
        ("upscale_method", Value::from("lanczos")),
        ("megapixels", Value::from(megapixels)),
        ("resolution_steps", Value::from(step)),
    ];
    node("ImageScaleToTotalPixels", inputs)
}

/// Scales the picture that gives the size. To an exact size it is cut too, but for one with a mask, which belongs to the whole
/// picture: there the result is, and the picture itself is scaled before, so that what stays of it has that size too.
pub(super) fn set_size(graph: &mut Graph, template: &Template, parameters: &Parameters) {
    let Some(size) = &template.bindings.size else { return };
    let asked = parameters.width.zip(parameters.height);
    let mut scale = match (asked, parameters.megapixels) {
        (Some((width, height)), _) if template.needs_mask() => {
            // The least and the most that ComfyUI's node takes.
            let megapixels = (f64::from(width) * f64::from(height) / MEGAPIXEL).clamp(0.01, 16.0);
            scale_first(graph, template, megapixels);
            scaling_to(megapixels, template.bindings.step)
        }
        (Some(asked), _) => scaling(whole(template, asked)),
        (None, Some(megapixels)) => {
            if template.needs_mask() {
                scale_first(graph, template, megapixels);
            }
            scaling_to(megapixels, template.bindings.step)
        }
        (None, None) => return,
    };
    let Some(standing) = graph.get_mut(&size.node) else {
        return;
    };
    // By one of these names it takes the picture, where it does not load it.
    let picture = ["image", "input"].map(|input| standing.inputs.get(input).filter(|value| value.is_array()).cloned());
    if let Some(picture) = picture.into_iter().flatten().next() {
        scale.inputs.insert("image".to_owned(), picture);
        *standing = scale;
    } else {
        let id = graph.free_id("scale");
        redirect(graph, &size.node, &id);
        scale.inputs.insert("image".to_owned(), json!([size.node, 0]));
        graph.nodes.insert(id, scale);
    }
    if let Some(asked) = asked {
        if template.needs_mask() {
            put_before_output(graph, template, "fit", scaling(asked));
        } else if whole(template, asked) != asked {
            add_crop(graph, template, asked, whole(template, asked));
        }
    }
}

/// Scales the first image itself.
fn scale_first(graph: &mut Graph, template: &Template, megapixels: f64) {
    let Some(first) = template
        .bindings
        .images
        .as_ref()
        .and_then(|images| images.nodes.first())
    else {
        return;
    };
    let id = graph.free_id("sized");
    redirect(graph, first, &id);
    let mut scale = scaling_to(megapixels, 1);
    scale.inputs.insert("image".to_owned(), json!([first, 0]));
    graph.nodes.insert(id, scale);
}

/// Puts the mask where it goes, or makes the sampler change only what it says. `LoadImage` gives what is transparent as its
/// second output.
pub(super) fn set_mask(graph: &mut Graph, template: &Template, parameters: &Parameters) {
    let Some(mask) = &parameters.mask else { return };
    let load = graph.free_id("mask");
    let loaded = node("LoadImage", [("image", Value::from(mask.as_str()))]);
    if let Some(binding) = &template.bindings.mask {
        for place in binding.input() {
            set(graph, &place.node, &place.input, json!([load, 1]));
        }
    } else if let Some(latent) = &template.bindings.latent {
        let masked = graph.free_id("masked");
        redirect(graph, &latent.node, &masked);
        let samples = [("samples", json!([latent.node, 0])), ("mask", json!([load, 1]))];
        graph.nodes.insert(masked, node("SetLatentNoiseMask", samples));
    }
    graph.nodes.insert(load, loaded);
}

/// How strongly the control picture counts, and what it is drawn by.
pub(super) fn set_control(graph: &mut Graph, template: &Template, parameters: &Parameters) {
    let (Some(binding), Some(control)) = (&template.bindings.control, &parameters.control) else {
        return;
    };
    if let Some(strength) = control.strength {
        for place in binding.strength() {
            set(graph, &place.node, &place.input, Value::from(strength));
        }
    }
    let kind = control.kind.or_else(|| binding.types.first().copied());
    if kind.is_none_or(|kind| kind == ControlType::Canny) {
        return;
    }
    let Some(picture) = graph
        .get(&binding.edges)
        .and_then(|node| node.inputs.get("image"))
        .cloned()
    else {
        return;
    };
    if let Some(preprocessor) = &parameters.preprocessor {
        // It gives a picture of a size of its own, and the size of the result may follow from it.
        let (drawn, size) = (graph.free_id("preprocessor"), graph.free_id("preprocessor-size"));
        let mut scale = scaling((0, 0));
        for (input, value) in [
            ("image", json!([drawn, 0])),
            ("width", json!([size, 0])),
            ("height", json!([size, 1])),
            ("crop", Value::from("disabled")),
        ] {
            scale.inputs.insert(input.to_owned(), value);
        }
        let mut draw = node(preprocessor.class, [("image", picture.clone())]);
        if preprocessor.is_sized {
            // Its own default is half as many, which makes lines thick and dull.
            draw.inputs
                .insert(Preprocessor::SIDE.to_owned(), Value::from(DRAWN_SIDE));
        }
        graph.nodes.insert(drawn, draw);
        graph.nodes.insert(size, node("GetImageSize", [("image", picture)]));
        if let Some(edges) = graph.get_mut(&binding.edges) {
            *edges = scale;
        }
        return;
    }
    let edges = json!([binding.edges, 0]);
    for node in graph.nodes.values_mut() {
        for value in node.inputs.values_mut().filter(|value| **value == edges) {
            *value = picture.clone();
        }
    }
    graph.remove(&binding.edges);
}
