//! The limits of the parameters of a request. The first number of each range is the least value that makes sense; where
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

/// Strength of a LoRA (`LoraLoaderModelOnly`).
pub const LORA_STRENGTH: RangeInclusive<f64> = -100.0..=100.0;

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
