//! Whether a LoRA is made for a model: by the names and shapes of what is in both files.
//!
//! `ComfyUI` passes over what does not fit, and makes the picture without it; who asks for a LoRA is to be told instead.
//! Trainers name things differently, and `ComfyUI` knows how to read most of them, so a LoRA is refused only where it is
//! clear that it belongs to another kind of model.

use std::collections::{BTreeMap, HashMap};

use super::header::{Header, Tensor};
use crate::echo::cut;

/// What is to be said of a LoRA beside a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fit {
    /// It has what the model has.
    Fits,
    /// Nobody knows; what to tell its user.
    Unknown(String),
    /// It is for another model; the reason.
    Wrong(String),
}

/// What the names of a LoRA's weights begin with, before the name that the model has for them.
const PREFIXES: [&str; 7] = [
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "unet.",
    "lora_unet_",
    "lora_transformer_",
];
/// What those of weights for the text encoder begin with, which say nothing of the model.
const OF_TEXT: [&str; 4] = ["lora_te", "text_encoder", "text_model", "clip_"];
/// What they end with, the longer first where one ends in another.
const DOWN: [&str; 7] = [
    ".lora_A.default.weight",
    ".lora_linear_layer.down.weight",
    "_lora.down.weight",
    ".lora.down.weight",
    ".lora_A.weight",
    ".lora_down.weight",
    ".lora_A",
];
const UP: [&str; 7] = [
    ".lora_B.default.weight",
    ".lora_linear_layer.up.weight",
    "_lora.up.weight",
    ".lora.up.weight",
    ".lora_B.weight",
    ".lora_up.weight",
    ".lora_B",
];
/// The same of other kinds of LoRA (`LoHa`, `LoKr`, OFT, whole differences), whose shapes say less.
const OTHER: [&str; 17] = [
    ".lora_mid.weight",
    ".hada_w1_a",
    ".hada_w1_b",
    ".hada_w2_a",
    ".hada_w2_b",
    ".lokr_w1",
    ".lokr_w2",
    ".lokr_w1_a",
    ".lokr_w1_b",
    ".lokr_w2_a",
    ".lokr_w2_b",
    ".oft_blocks",
    ".a1.weight",
    ".b1.weight",
    ".diff_b",
    ".diff",
    ".set_weight",
];
/// Types of numbers in which a weight has the shape that it was trained with.
const PLAIN: [&str; 5] = ["F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"];

/// A kind of model whose parts have names that no other has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// A U-Net; where it is known, how wide the text is that it reads.
    StableDiffusion(Option<u64>),
    StableDiffusion3,
    Flux,
    Wan,
    QwenImage,
    ZImage,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::StableDiffusion(Some(768)) => "Stable Diffusion 1.5",
            Self::StableDiffusion(Some(1024)) => "Stable Diffusion 2",
            Self::StableDiffusion(Some(2048)) => "SDXL",
            Self::StableDiffusion(_) => "Stable Diffusion",
            Self::StableDiffusion3 => "Stable Diffusion 3",
            Self::Flux => "Flux or a model like it",
            Self::Wan => "Wan",
            Self::QwenImage => "Qwen-Image",
            Self::ZImage => "Z-Image or Lumina",
        }
    }

    fn is_other_than(self, other: Self) -> bool {
        match (self, other) {
            (Self::StableDiffusion(one), Self::StableDiffusion(other)) => {
                one.zip(other).is_some_and(|(one, other)| one != other)
            }
            _ => self != other,
        }
    }
}

/// The weights of a LoRA for one weight of a model.
#[derive(Debug, Default)]
struct Patch {
    /// Width of what goes in.
    width: Option<u64>,
    /// Width of what comes out.
    height: Option<u64>,
}

/// Judges a LoRA beside the model that it is to change.
pub(super) fn judge(lora: &Header, model: &Header) -> Fit {
    let patches = patches(lora);
    if patches.is_empty() {
        return Fit::Unknown("no weights of a LoRA are known in it; it may have no effect".to_owned());
    }
    let weights = weights(model);
    let known: Vec<(&String, &Patch, &Tensor)> = patches
        .iter()
        .filter_map(|(name, patch)| Some((name, patch, *weights.get(name)?)))
        .collect();
    let ours = family(
        weights
            .iter()
            .map(|(name, weight)| (name.as_str(), weight.shape.get(1).copied())),
    );
    let theirs = family(patches.iter().map(|(name, patch)| (name.as_str(), patch.width)));
    if let (Some(theirs), Some(ours)) = (theirs, ours)
        && theirs.is_other_than(ours)
    {
        return Fit::Wrong(format!(
            "is made for {}, and the graph's model is {}",
            theirs.name(),
            ours.name()
        ));
    }
    let compared: Vec<_> = known
        .iter()
        .filter_map(|(name, patch, weight)| compare(name, patch, weight))
        .collect();
    match (&compared[..], &known[..]) {
        ([first, ..], _) if compared.iter().all(Result::is_err) => match first {
            Err(difference) => Fit::Wrong(format!(
                "is made for a model of another size than the graph's: {difference}"
            )),
            Ok(()) => Fit::Fits,
        },
        (_, [_, ..]) => Fit::Fits,
        // ComfyUI knows what the parts of such a model are called elsewhere.
        _ if theirs.is_some() && ours.is_some() => Fit::Fits,
        _ => Fit::Unknown(format!(
            "none of its {} parts has a name that is known in the graph's model; it may be made for another one, and have no effect",
            patches.len()
        )),
    }
}

/// Whether a patch has the shape of its weight, where that can be told.
fn compare(name: &str, patch: &Patch, weight: &Tensor) -> Option<Result<(), String>> {
    let (width, height) = (patch.width?, patch.height?);
    let [rows, columns] = weight.shape[..] else { return None };
    if !PLAIN.contains(&weight.dtype.as_str()) {
        return None;
    }
    Some(if (rows, columns) == (height, width) {
        Ok(())
    } else {
        let name = cut(name);
        Err(format!(
            "`{name}` is for {height} x {width} numbers, and there are {rows} x {columns}"
        ))
    })
}

/// The names of what a LoRA changes, as they are with `_` in place of points.
fn patches(lora: &Header) -> BTreeMap<String, Patch> {
    let mut patches: BTreeMap<String, Patch> = BTreeMap::new();
    for (key, tensor) in &lora.tensors {
        let without = |endings: &[&str]| endings.iter().find_map(|ending| key.strip_suffix(ending));
        let (module, is_down, is_up) = match (without(&DOWN), without(&UP), without(&OTHER)) {
            (Some(module), ..) => (module, true, false),
            (_, Some(module), _) => (module, false, true),
            (.., Some(module)) => (module, false, false),
            _ => continue,
        };
        let Some(name) = bare(module) else { continue };
        let patch = patches.entry(name).or_default();
        if let [first, second] = tensor.shape[..] {
            if is_down {
                patch.width = Some(second);
            } else if is_up {
                patch.height = Some(first);
            }
        }
    }
    patches
}

/// The name without what trainers put before it; [`None`]: it is none of the model's.
fn bare(module: &str) -> Option<String> {
    let mut rest = module;
    while let Some(shorter) = PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        rest = shorter;
    }
    if OF_TEXT.iter().any(|prefix| rest.starts_with(prefix)) {
        return None;
    }
    Some(rest.replace('.', "_"))
}

/// The weights of a model by their names with `_` in place of points.
fn weights(model: &Header) -> HashMap<String, &Tensor> {
    let weights = model.tensors.iter();
    weights
        .filter_map(|(key, tensor)| Some((bare(key.strip_suffix(".weight")?)?, tensor)))
        .collect()
}

/// The kind of model that has parts of these names; [`None`] where they tell of none, or of several.
fn family<'a>(parts: impl Iterator<Item = (&'a str, Option<u64>)>) -> Option<Family> {
    let mut found: Option<Family> = None;
    for (name, width) in parts {
        let Some(family) = family_of(name, width) else { continue };
        found = match found {
            Some(Family::StableDiffusion(known)) if matches!(family, Family::StableDiffusion(_)) => {
                let Family::StableDiffusion(more) = family else {
                    continue;
                };
                Some(Family::StableDiffusion(known.or(more)))
            }
            Some(known) if known != family => return None,
            _ => Some(family),
        };
    }
    found
}

fn family_of(name: &str, width: Option<u64>) -> Option<Family> {
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    let begins = |parts: &[&str]| parts.iter().any(|part| name.starts_with(part));
    let in_block = |begin: &str, parts: &[&str]| {
        let rest = name
            .strip_prefix(begin)
            .map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
        rest.is_some_and(|rest| parts.iter().any(|part| rest.starts_with(part)))
    };
    let unet = [
        "down_blocks_",
        "up_blocks_",
        "mid_block_",
        "input_blocks_",
        "output_blocks_",
        "middle_block_",
    ];
    if begins(&unet) {
        // What reads the text is as wide as the text.
        let width = width.filter(|width| has(&["attn2_to_k"]) && [768, 1024, 2048].contains(width));
        return Some(Family::StableDiffusion(width));
    }
    if begins(&["single_transformer_blocks_", "double_blocks_", "single_blocks_"]) {
        return Some(Family::Flux);
    }
    if begins(&["joint_blocks_"]) {
        return Some(Family::StableDiffusion3);
    }
    if in_block("blocks_", &["_self_attn_", "_cross_attn_", "_ffn_"]) {
        return Some(Family::Wan);
    }
    if in_block("transformer_blocks_", &["_img_m", "_txt_m"]) {
        return Some(Family::QwenImage);
    }
    if in_block("layers_", &["_attention_", "_feed_forward_"]) || begins(&["noise_refiner_", "context_refiner_"]) {
        return Some(Family::ZImage);
    }
    None
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
