"""Writes Qwen-Image at its real sizes with random weights (29 GB), for measurements on a GPU; the pictures are noise.

usage, in ComfyUI's folder and with its Python: weights.py MODELS_DIR
"""

import os
import sys

models = os.path.abspath(sys.argv[1])
# ComfyUI reads the arguments too.
sys.argv = sys.argv[:1]
sys.path.insert(0, os.getcwd())

import safetensors.torch
import torch

import comfy.ldm.qwen_image.model
import comfy.ldm.wan.vae
import comfy.ops
import comfy.text_encoders.llama

FP8, BF16 = torch.float8_e4m3fn, torch.bfloat16
LORA_RANK = 32
# The official file's: 20 GB in fp8.
BLOCKS = 60


def random(name, shape, dtype, scale=0.02):
    if name.endswith("bias"):
        values = torch.zeros(shape, device="cuda", dtype=BF16)
    elif name and (len(shape) == 1 or name.endswith("gamma")):
        values = torch.ones(shape, device="cuda", dtype=BF16)
    else:
        values = torch.randn(shape, device="cuda", dtype=BF16) * scale
    return values.to(dtype).cpu()


def save(tensors, folder, name):
    path = os.path.join(models, folder, f"{name}.safetensors")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    safetensors.torch.save_file(tensors, path)
    print(f"{path}: {os.path.getsize(path) / 1e9:.1f} GB", flush=True)
    return path


def shapes(model):
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


torch.manual_seed(0)
empty = {"dtype": BF16, "device": "meta", "operations": comfy.ops.disable_weight_init}

transformer = shapes(comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(num_layers=BLOCKS, **empty))
path = save({name: random(name, shape, FP8) for name, shape in transformer.items()},
            "diffusion_models", "qwen_image_fp8_e4m3fn")
edit = os.path.join(os.path.dirname(path), "qwen_image_edit_fp8_e4m3fn.safetensors")
if not os.path.exists(edit):
    os.link(path, edit)

lora = {}
for name, shape in transformer.items():
    if name.startswith("transformer_blocks.") and len(shape) == 2 and ("attn" in name or "mlp" in name):
        base = name.removesuffix(".weight")
        lora[f"{base}.lora_down.weight"] = random("", (LORA_RANK, shape[1]), BF16)
        lora[f"{base}.lora_up.weight"] = random("", (shape[0], LORA_RANK), BF16)
        lora[f"{base}.alpha"] = torch.tensor(float(LORA_RANK), dtype=BF16)
save(lora, "loras", "Qwen-Image-Lightning-8steps-V1.0")

encoder = shapes(comfy.text_encoders.llama.Qwen25_7BVLI({}, **empty))
save({name: random(name, shape, FP8) for name, shape in encoder.items()},
     "text_encoders", "qwen_2.5_vl_7b_fp8_scaled")

decoder = shapes(comfy.ldm.wan.vae.WanVAE(
    dim=96, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
    temperal_downsample=[False, True, True], image_channels=3, conv_out_channels=3, dropout=0.0))
save({name: random(name, shape, BF16, scale=max(1, shape[1:].numel()) ** -0.5) for name, shape in decoder.items()},
     "vae", "qwen_image_vae")
