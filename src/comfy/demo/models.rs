//! The model files that the official Qwen-Image graphs name, and the tensors that each is made of. Names are those that
//! ComfyUI 0.30.0 reads; shapes are its own shapes at the widths that `qwen_image_worker_demo.py` sets.

/// One model file.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModelFile {
    /// The folder under `models`.
    pub(super) folder: &'static str,
    /// The file's name, without `.safetensors`.
    pub(super) name: &'static str,
    /// Decides the values. Each file has its own, so that another model or LoRA gives another picture.
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
}

impl ModelFile {
    /// Its tensors, in the order of the file.
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        match self.source {
            Source::Built(build) => build().0,
            Source::Listed(part) => super::family::tensors(part),
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

/// Every file that is written. Names keep the number format of the real file; the values are bfloat16 in all.
#[rustfmt::skip]
pub(super) const FILES: &[ModelFile] = &[
    file("diffusion_models", "qwen_image_fp8_e4m3fn", 1, transformer),
    file("diffusion_models", "qwen_image_2512_fp8_e4m3fn", 2, transformer),
    file("diffusion_models", "qwen_image_edit_fp8_e4m3fn", 3, transformer),
    file("diffusion_models", "qwen_image_edit_2509_fp8_e4m3fn", 4, transformer),
    file("diffusion_models", "qwen_image_edit_2511_fp8mixed", 5, transformer_of_2511),
    file("loras", "Qwen-Image-Lightning-8steps-V1.0", 6, lora),
    file("loras", "Qwen-Image-Lightning-4steps-V1.0", 7, lora),
    file("loras", "Qwen-Image-2512-Lightning-4steps-V1.0-fp32", 8, lora),
    file("loras", "Qwen-Image-Edit-Lightning-4steps-V1.0-bf16", 9, lora),
    file("loras", "Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16", 10, lora),
    file("loras", "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16", 11, lora),
    file("text_encoders", "qwen_2.5_vl_7b_fp8_scaled", 12, text_encoder),
    file("vae", "qwen_image_vae", 13, vae),
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

    /// The shape begins with the outputs.
    fn convolution(&mut self, layer: &str, shape: &[usize]) {
        self.add(format!("{layer}.weight"), Fill::FanIn, shape);
        self.add(format!("{layer}.bias"), Fill::Constant(0.0), &shape[..1]);
    }

    fn gamma(&mut self, layer: &str, shape: &[usize]) {
        self.add(format!("{layer}.gamma"), Fill::Constant(1.0), shape);
    }

    fn residual(&mut self, layer: &str, from: usize, to: usize) {
        self.gamma(&format!("{layer}.residual.0"), &[from, 1, 1, 1]);
        self.convolution(&format!("{layer}.residual.2"), &[to, from, 3, 3, 3]);
        self.gamma(&format!("{layer}.residual.3"), &[to, 1, 1, 1]);
        self.convolution(&format!("{layer}.residual.6"), &[to, to, 3, 3, 3]);
        if from != to {
            self.convolution(&format!("{layer}.shortcut"), &[to, from, 1, 1, 1]);
        }
    }

    /// The middle of one half of the VAE: attention between two residual blocks.
    fn middle(&mut self, half: &str) {
        self.residual(&format!("{half}.middle.0"), 16, 16);
        self.gamma(&format!("{half}.middle.1.norm"), &[16, 1, 1]);
        self.convolution(&format!("{half}.middle.1.to_qkv"), &[48, 16, 1, 1]);
        self.convolution(&format!("{half}.middle.1.proj"), &[16, 16, 1, 1]);
        self.residual(&format!("{half}.middle.2"), 16, 16);
    }

    fn steps(&mut self, path: &str, steps: &[Step]) {
        for (number, step) in steps.iter().enumerate() {
            let layer = format!("{path}.{number}");
            match *step {
                Step::Residual(from, to) => self.residual(&layer, from, to),
                Step::Resample(from, to, times) => {
                    self.convolution(&format!("{layer}.resample.1"), &[to, from, 3, 3]);
                    if let Some(times) = times {
                        self.convolution(&format!("{layer}.time_conv"), &[times, from, 3, 1, 1]);
                    }
                }
            }
        }
    }
}

/// One step down to the latent picture, or up from it, from one width to another.
enum Step {
    Residual(usize, usize),
    /// Half or double the size; where it does so in time too, with this width.
    Resample(usize, usize, Option<usize>),
}

/// The linear layers of the transformer's block, with outputs and inputs.
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

/// The diffusion transformer: one block, one attention head of 128, text width 64.
fn transformer() -> Tensors {
    let mut all = Tensors::default();
    all.linear("time_text_embed.timestep_embedder.linear_1", 128, 256);
    all.linear("time_text_embed.timestep_embedder.linear_2", 128, 128);
    all.norm("txt_norm", 64);
    all.linear("img_in", 128, 64);
    all.linear("txt_in", 128, 64);
    let (streams, attention) = BLOCK.split_at(6);
    for (layer, outputs, inputs) in streams {
        all.linear(&format!("transformer_blocks.0.{layer}"), *outputs, *inputs);
    }
    for norm in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
        all.norm(&format!("transformer_blocks.0.attn.{norm}"), 128);
    }
    for (layer, outputs, inputs) in attention {
        all.linear(&format!("transformer_blocks.0.{layer}"), *outputs, *inputs);
    }
    all.linear("norm_out.linear", 256, 128);
    all.linear("proj_out", 64, 128);
    all
}

/// With the empty tensor by which ComfyUI knows an edit model of the 2511 kind (`detect_unet_config` in
/// `comfy/model_detection.py`).
pub(super) fn transformer_of_2511() -> Tensors {
    let mut all = transformer();
    all.add("__index_timestep_zero__".to_owned(), Fill::Constant(0.0), &[0]);
    all
}

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
    all.linear("visual.merger.mlp.2", 64, 256);
    all
}

/// The Wan 2.1 VAE with base width 4 (96 in the real one). Narrower ones are little faster and show two colours only.
fn vae() -> Tensors {
    use Step::{Resample, Residual};
    let mut all = Tensors::default();
    all.convolution("encoder.conv1", &[4, 3, 3, 3, 3]);
    #[rustfmt::skip]
    all.steps("encoder.downsamples", &[
        Residual(4, 4), Residual(4, 4), Resample(4, 4, None),
        Residual(4, 8), Residual(8, 8), Resample(8, 8, Some(8)),
        Residual(8, 16), Residual(16, 16), Resample(16, 16, Some(16)),
        Residual(16, 16), Residual(16, 16),
    ]);
    all.middle("encoder");
    all.gamma("encoder.head.0", &[16, 1, 1, 1]);
    all.convolution("encoder.head.2", &[32, 16, 3, 3, 3]);
    all.convolution("conv1", &[32, 32, 1, 1, 1]);
    all.convolution("conv2", &[16, 16, 1, 1, 1]);
    all.convolution("decoder.conv1", &[16, 16, 3, 3, 3]);
    all.middle("decoder");
    #[rustfmt::skip]
    all.steps("decoder.upsamples", &[
        Residual(16, 16), Residual(16, 16), Residual(16, 16), Resample(16, 8, Some(32)),
        Residual(8, 16), Residual(16, 16), Residual(16, 16), Resample(16, 8, Some(32)),
        Residual(8, 8), Residual(8, 8), Residual(8, 8), Resample(8, 4, None),
        Residual(4, 4), Residual(4, 4), Residual(4, 4),
    ]);
    all.gamma("decoder.head.0", &[4, 1, 1, 1]);
    all.convolution("decoder.head.2", &[3, 4, 3, 3, 3]);
    all
}
