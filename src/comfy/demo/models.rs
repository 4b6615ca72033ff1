//! The model files that the official Qwen-Image graphs name, and the tensors that each is made of. Names are those that
//! ComfyUI 0.30.0 reads; shapes are its own shapes at the widths that `qwen_image_worker_demo.py` sets.
//!
//! What draws pictures from text and edits them was trained (`demo/README.md` tells how); the rest is random.

use std::io::{self, Write};

use super::safetensors;

/// One model file.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModelFile {
    /// The folder under `models`.
    pub(super) folder: &'static str,
    /// The file's name, without `.safetensors`.
    pub(super) name: &'static str,
    /// Decides the values that are random. Each file has its own, so that another model or LoRA gives another picture.
    pub(super) seed: u64,
    pub(super) source: Source,
}

/// Where the tensors of a file are told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// Here, layer by layer.
    Built(fn() -> Tensors),
    /// In a part of `family.txt`.
    Listed(&'static str),
    /// In the file itself, whose values were trained (`demo/` in the repository); it is written as it is.
    Trained(&'static [u8]),
}

/// Draws what a prompt of plain shapes asks for: 4 blocks, 4 attention heads of 32, text width 64.
const TRANSFORMER: &[u8] = include_bytes!("trained/transformer.safetensors");
/// Does what an instruction of plain words says to a picture of plain shapes; of the same widths. It is a file of the 2511 kind, by an
/// empty tensor (`detect_unet_config` in `comfy/model_detection.py`), and all three edit models are this one.
pub(super) const EDIT: &[u8] = include_bytes!("trained/edit.safetensors");
/// Makes the one that draws do in 8 steps what it does in many.
const LIGHTNING_8: &[u8] = include_bytes!("trained/lightning-8.safetensors");
/// The same in 4 steps.
const LIGHTNING_4: &[u8] = include_bytes!("trained/lightning-4.safetensors");
/// The same for the one that edits.
const EDIT_LIGHTNING_4: &[u8] = include_bytes!("trained/edit-lightning-4.safetensors");
/// The Wan 2.1 VAE with base width 4 (96 in the real one).
const VAE: &[u8] = include_bytes!("trained/vae.safetensors");

impl ModelFile {
    /// Writes the whole file.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self.source {
            Source::Trained(file) => out.write_all(file),
            Source::Built(_) | Source::Listed(_) => safetensors::write(out, &self.tensors(), self.seed),
        }
    }

    /// The tensors that are filled with random values, in the order of the file; none of a trained one.
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        match self.source {
            Source::Built(build) => build().0,
            Source::Listed(part) => super::family::tensors(part),
            Source::Trained(_) => Vec::new(),
        }
    }
}

const fn file(folder: &'static str, name: &'static str, seed: u64, tensors: fn() -> Tensors) -> ModelFile {
    ModelFile {
        folder,
        name,
        seed,
        source: Source::Built(tensors),
    }
}

const fn trained(folder: &'static str, name: &'static str, file: &'static [u8]) -> ModelFile {
    ModelFile {
        folder,
        name,
        seed: 0,
        source: Source::Trained(file),
    }
}

/// Every file that is written. Names keep the number format of the real file; the values are bfloat16 in all.
#[rustfmt::skip]
pub(super) static FILES: &[ModelFile] = &[
    trained("diffusion_models", "qwen_image_fp8_e4m3fn", TRANSFORMER),
    trained("diffusion_models", "qwen_image_2512_fp8_e4m3fn", TRANSFORMER),
    trained("diffusion_models", "qwen_image_edit_fp8_e4m3fn", EDIT),
    trained("diffusion_models", "qwen_image_edit_2509_fp8_e4m3fn", EDIT),
    trained("diffusion_models", "qwen_image_edit_2511_fp8mixed", EDIT),
    trained("loras", "Qwen-Image-Lightning-8steps-V1.0", LIGHTNING_8),
    trained("loras", "Qwen-Image-Lightning-4steps-V1.0", LIGHTNING_4),
    trained("loras", "Qwen-Image-2512-Lightning-4steps-V1.0-fp32", LIGHTNING_4),
    trained("loras", "Qwen-Image-Edit-Lightning-4steps-V1.0-bf16", EDIT_LIGHTNING_4),
    trained("loras", "Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16", EDIT_LIGHTNING_4),
    trained("loras", "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16", EDIT_LIGHTNING_4),
    file("text_encoders", "qwen_2.5_vl_7b_fp8_scaled", 12, text_encoder),
    trained("vae", "qwen_image_vae", VAE),
];

/// One tensor of a file, bfloat16.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) fill: Fill,
    pub(super) shape: Vec<usize>,
}

impl Tensor {
    /// How many values it holds; one for a scalar.
    pub(super) fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// What a tensor is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fill {
    /// The same value everywhere.
    Constant(f32),
    /// Noise around zero with the standard deviation 0.02, as transformers are initialised.
    Normal,
    /// Noise around zero with the variance 1/(values that feed one output), so that a convolution keeps the size of
    /// its input.
    FanIn,
}

/// The tensors of a model, layer by layer. Weights are noise, biases 0, and what scales is 1.
#[derive(Debug, Default)]
pub(super) struct Tensors(Vec<Tensor>);

impl Tensors {
    fn add(&mut self, name: String, fill: Fill, shape: &[usize]) {
        let shape = shape.to_vec();
        self.0.push(Tensor { name, fill, shape });
    }

    fn weight(&mut self, layer: &str, shape: &[usize]) {
        self.add(format!("{layer}.weight"), Fill::Normal, shape);
    }

    fn linear(&mut self, layer: &str, outputs: usize, inputs: usize) {
        self.weight(layer, &[outputs, inputs]);
        self.add(format!("{layer}.bias"), Fill::Constant(0.0), &[outputs]);
    }

    fn norm(&mut self, layer: &str, width: usize) {
        self.add(format!("{layer}.weight"), Fill::Constant(1.0), &[width]);
    }
}

/// The linear layers of a block of the transformer, with outputs and inputs.
const BLOCK: [(&str, usize, usize); 14] = [
    ("img_mod.1", 768, 128),
    ("img_mlp.net.0.proj", 512, 128),
    ("img_mlp.net.2", 128, 512),
    ("txt_mod.1", 768, 128),
    ("txt_mlp.net.0.proj", 512, 128),
    ("txt_mlp.net.2", 128, 512),
    ("attn.to_q", 128, 128),
    ("attn.to_k", 128, 128),
    ("attn.to_v", 128, 128),
    ("attn.add_q_proj", 128, 128),
    ("attn.add_k_proj", 128, 128),
    ("attn.add_v_proj", 128, 128),
    ("attn.to_out.0", 128, 128),
    ("attn.to_add_out", 128, 128),
];

/// A LoRA of rank 4 over every linear layer of the transformer's block.
pub(super) fn lora() -> Tensors {
    let mut all = Tensors::default();
    for (layer, outputs, inputs) in BLOCK {
        let layer = format!("transformer_blocks.0.{layer}");
        all.weight(&format!("{layer}.lora_down"), &[4, inputs]);
        all.weight(&format!("{layer}.lora_up"), &[outputs, 4]);
        // Divided by the rank it is the strength: 1.0.
        all.add(format!("{layer}.alpha"), Fill::Constant(4.0), &[]);
    }
    all
}

/// The Qwen 2.5 VL text encoder: one layer of width 64 and a vision tower of one block. ComfyUI fixes the
/// vocabulary of 152064 and the length 512 of the key bias, by which it knows the model.
fn text_encoder() -> Tensors {
    let mut all = Tensors::default();
    all.weight("model.embed_tokens", &[152_064, 64]);
    for layer in ["q_proj", "k_proj", "v_proj"] {
        all.linear(&format!("model.layers.0.self_attn.{layer}"), 512, 64);
    }
    all.weight("model.layers.0.self_attn.o_proj", &[64, 512]);
    all.weight("model.layers.0.mlp.gate_proj", &[128, 64]);
    all.weight("model.layers.0.mlp.up_proj", &[128, 64]);
    all.weight("model.layers.0.mlp.down_proj", &[64, 128]);
    all.norm("model.layers.0.input_layernorm", 64);
    all.norm("model.layers.0.post_attention_layernorm", 64);
    all.norm("model.norm", 64);
    all.weight("visual.patch_embed.proj", &[64, 3, 2, 14, 14]);
    all.norm("visual.blocks.0.norm1", 64);
    all.norm("visual.blocks.0.norm2", 64);
    all.linear("visual.blocks.0.attn.qkv", 192, 64);
    all.linear("visual.blocks.0.attn.proj", 64, 64);
    all.linear("visual.blocks.0.mlp.gate_proj", 128, 64);
    all.linear("visual.blocks.0.mlp.up_proj", 128, 64);
    all.linear("visual.blocks.0.mlp.down_proj", 64, 128);
    all.norm("visual.merger.ln_q", 64);
    all.linear("visual.merger.mlp.0", 256, 256);
    // What it brings of a picture is nothing: the transformer sees that for itself.
    all.add("visual.merger.mlp.2.weight".to_owned(), Fill::Constant(0.0), &[64, 256]);
    all.add("visual.merger.mlp.2.bias".to_owned(), Fill::Constant(0.0), &[64]);
    all
}
