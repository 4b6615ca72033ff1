"""The parts of ComfyUI that are trained or run here, built as its loaders build them, at the widths of the demo.

The folder of ComfyUI 0.30.0 is taken from COMFYUI_DIR. Importing this file sets ComfyUI up for the CPU, with the attention
that the worker starts it with.
"""

import math
import os
import sys

sys.path.insert(0, os.environ["COMFYUI_DIR"])
ARGUMENTS, sys.argv = sys.argv, [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
import comfy.options

comfy.options.enable_args_parsing()
import torch
import comfy.ldm.qwen_image.model
import comfy.ldm.wan.vae
import comfy.model_management
import comfy.ops
import comfy.latent_formats
import comfy.text_encoders.llama
import comfy.text_encoders.qwen_image
import comfy.text_encoders.qwen_vl

sys.argv = ARGUMENTS
torch.set_num_threads(int(os.environ.get("THREADS", "2")))

TEXT_WIDTH = 64
TEXT_ENCODER = {"hidden_size": TEXT_WIDTH, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
VISION_TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_layers": 1, "num_heads": 4}
LATENT = comfy.latent_formats.Wan21()


def vae(dim=4):
    return comfy.ldm.wan.vae.WanVAE(
        dim=dim, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
        temperal_downsample=[False, True, True], image_channels=3, conv_out_channels=3, dropout=0.0)


def transformer(heads, head_dim, axes, blocks):
    """Its linear layers are torch's own, for those of ComfyUI are left without values."""
    return comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(
        num_layers=blocks, attention_head_dim=head_dim, num_attention_heads=heads, joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=axes, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)


def fan_in(module, generator, gain=1.0):
    """Noise of the variance 1/(inputs) for what multiplies, 1 for what scales, 0 for biases."""
    for name, value in module.named_parameters():
        with torch.no_grad():
            if value.ndim > 1 and not name.endswith("gamma"):
                value.copy_(torch.randn(value.shape, generator=generator) * gain / math.sqrt(value[0].numel()))
            elif name.endswith("bias"):
                value.zero_()
            else:
                value.fill_(1.0)
