//! Sizes and other numbers of a request: how they are written, and their limits. The first number of each range is the least value that makes sense; where
//! the last is not ComfyUI's own (`/object_info` of ComfyUI 0.30), the comment says why.

use std::ops::RangeInclusive;

/// Sampling steps (KSampler).
pub const STEPS: RangeInclusive<u32> = 1..=10_000;

/// Quality of a returned JPEG or WebP.
pub const QUALITY: RangeInclusive<u8> = 1..=100;

/// Classifier-free guidance scale (KSampler).
pub const CFG: RangeInclusive<f64> = 0.0..=100.0;

/// How much noise is added to what the sampler starts from (KSampler).
pub const DENOISE: RangeInclusive<f64> = 0.0..=1.0;

/// Strength of a LoRA. `LoraLoaderModelOnly` takes -100 to 100; what is far from 1 is a mistake, and makes noise.
pub const LORA_STRENGTH: RangeInclusive<f64> = -20.0..=20.0;

/// Strength of a control picture (`ControlNetApplyAdvanced`).
pub const CONTROL_STRENGTH: RangeInclusive<f64> = 0.0..=10.0;

/// Layers that a picture is taken apart into. ComfyUI takes 16384; each is sampled as another picture of the same size, and the
/// model was made for a few.
pub const LAYERS: RangeInclusive<u32> = 1..=16;

/// A megapixel in pixels, as ComfyUI (`ImageScaleToTotalPixels`) counts.
pub const MEGAPIXEL: f64 = 1024.0 * 1024.0;

/// Width and height of a picture, in pixels (`EmptySD3LatentImage`).
pub const SIDE: RangeInclusive<u32> = 16..=16_384;

/// Width times height, in pixels. ComfyUI has no such limit; this is 4096 × 4096, nine times what the models are made
/// for, and above it a picture fits no GPU.
pub const PIXELS: u64 = 4096 * 4096;

/// Size of a picture in megapixels (`ImageScaleToTotalPixels`).
pub const MEGAPIXELS: RangeInclusive<f64> = 0.01..=16.0;

/// Pictures of one request. ComfyUI takes 4096 in a latent, and 64 where a latent is repeated (`RepeatLatentBatch`); no GPU
/// holds more than a few dozen.
pub const BATCH_SIZE: RangeInclusive<u32> = 1..=64;

/// LoRAs of one request, besides the template's own. Each is patched into the model in turn.
pub const LORAS: usize = 16;

/// Characters of a prompt. The text encoder takes some thousand tokens; a longer text is a mistake.
pub const PROMPT_CHARS: usize = 20_000;

/// The latents of Qwen-Image go by steps of so many pixels.
pub const SIZE_STEP: u32 = 16;

/// Each ratio with width and height in pixels, from the notes in the official templates (`image_qwen_image`).
const SIZES: &[(&str, (u32, u32))] = &[
    ("1:1", (1328, 1328)),
    ("16:9", (1664, 928)),
    ("9:16", (928, 1664)),
    ("4:3", (1472, 1140)),
    ("3:4", (1140, 1472)),
    ("3:2", (1584, 1056)),
    ("2:3", (1056, 1584)),
];

/// Width and height in pixels for an aspect ratio such as `16:9`; `None` for one that is not in
/// [`aspect_ratios`]. A template may have other sizes:
/// [`Template::size_for_aspect_ratio`](crate::workflow::Template::size_for_aspect_ratio).
pub fn size_for_aspect_ratio(ratio: &str) -> Option<(u32, u32)> {
    let ratio = ratio.trim();
    SIZES.iter().find(|(name, _)| *name == ratio).map(|(_, size)| *size)
}

/// Width and height in pixels as they are written: `1024x1024`, `1024*1024` or `1024×1024`.
pub fn parse_size(text: &str) -> Option<(u32, u32)> {
    let (width, height) = text.trim().split_once(['x', 'X', '*', '×'])?;
    Some((width.trim().parse().ok()?, height.trim().parse().ok()?))
}

/// The ratios that have a size, for the text of an error.
pub fn aspect_ratios() -> impl Iterator<Item = &'static str> {
    SIZES.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ratio_has_its_size_and_its_turned_one() {
        for ratio in aspect_ratios() {
            let (width, height) = size_for_aspect_ratio(ratio).expect("a size");
            let (a, b) = ratio.split_once(':').expect("a ratio");
            assert_eq!(size_for_aspect_ratio(&format!("{b}:{a}")), Some((height, width)));
        }
        assert_eq!(size_for_aspect_ratio(" 16:9 "), Some((1664, 928)));
        assert_eq!(size_for_aspect_ratio("21:9"), None);
    }

    #[test]
    fn a_size_is_read_in_each_way_of_writing_it() {
        for text in ["1024x768", "1024*768", " 1024 X 768 ", "1024×768"] {
            assert_eq!(parse_size(text), Some((1024, 768)), "{text}");
        }
        for text in ["", "1024", "x768", "1024x", "1024x768x3", "-1x5", "axb"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
