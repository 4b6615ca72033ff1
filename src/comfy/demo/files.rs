//! The model files that the official Qwen-Image graphs name, and what each is made of.

use super::tensors::{INDEX_TIMESTEP_ZERO, LORA, TEXT_ENCODER, TRANSFORMER, Tensor, VAE};

/// One model file.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModelFile {
    /// The folder under `models`.
    pub(super) folder: &'static str,
    /// The file's name, without `.safetensors`.
    pub(super) name: &'static str,
    /// Decides the values. Each file has its own, so that another model or LoRA gives another picture.
    pub(super) seed: u64,
    /// Its tensors, table after table.
    tables: &'static [&'static [Tensor]],
}

impl ModelFile {
    /// Its tensors, in the order of the file.
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        self.tables.concat()
    }
}

const fn file(folder: &'static str, name: &'static str, seed: u64, tables: &'static [&'static [Tensor]]) -> ModelFile {
    ModelFile {
        folder,
        name,
        seed,
        tables,
    }
}

/// Every file that is written. Names keep the number format of the real file; the values are bfloat16 in all.
#[rustfmt::skip]
pub(super) const FILES: &[ModelFile] = &[
    file("diffusion_models", "qwen_image_fp8_e4m3fn", 1, &[TRANSFORMER]),
    file("diffusion_models", "qwen_image_2512_fp8_e4m3fn", 2, &[TRANSFORMER]),
    file("diffusion_models", "qwen_image_edit_fp8_e4m3fn", 3, &[TRANSFORMER]),
    file("diffusion_models", "qwen_image_edit_2509_fp8_e4m3fn", 4, &[TRANSFORMER]),
    file("diffusion_models", "qwen_image_edit_2511_fp8mixed", 5, &[TRANSFORMER, INDEX_TIMESTEP_ZERO]),
    file("loras", "Qwen-Image-Lightning-8steps-V1.0", 6, &[LORA]),
    file("loras", "Qwen-Image-Lightning-4steps-V1.0", 7, &[LORA]),
    file("loras", "Qwen-Image-2512-Lightning-4steps-V1.0-fp32", 8, &[LORA]),
    file("loras", "Qwen-Image-Edit-Lightning-4steps-V1.0-bf16", 9, &[LORA]),
    file("loras", "Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16", 10, &[LORA]),
    file("loras", "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16", 11, &[LORA]),
    file("text_encoders", "qwen_2.5_vl_7b_fp8_scaled", 12, &[TEXT_ENCODER]),
    file("vae", "qwen_image_vae", 13, &[VAE]),
];
