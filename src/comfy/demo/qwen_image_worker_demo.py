"""Lets ComfyUI load the demo weights of qwen-image-worker: Qwen-Image files with tiny layers.

ComfyUI reads the number of blocks from a Qwen-Image file but takes the widths of the layers from its own
defaults (those of the VAE up to 0.3, too). This file gives it the widths of the demo files, and only for those: a file is known by the width of
its text embedding, so real files beside the demo files load as ever. Loaders, text encoding, sampling,
previews, LoRA and VAE stay ComfyUI's own.

Without QWEN_IMAGE_WORKER_DEMO=1 in the environment it changes nothing.
"""

import functools
import inspect
import logging
import os
import threading

# The widths of the tensors that the worker writes.
TEXT_WIDTH = 64
TEXT_ENCODER = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
VAE_WIDTH = 4
# Side of what the text encoder is shown of a picture, in pixels.
PICTURE = 56
VISION_TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_layers": 1, "num_heads": 4}
TRANSFORMER = {
    "joint_attention_dim": TEXT_WIDTH,
    "num_attention_heads": 1,
    "attention_head_dim": 128,
    "axes_dims_rope": (16, 56, 56),
}
# The one that was trained.
TRAINED_TRANSFORMER = {
    "joint_attention_dim": TEXT_WIDTH,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "axes_dims_rope": (8, 12, 12),
}

# Those of Z-Image, its text encoder and its VAE, and of the files that steer Qwen-Image by model patches.
Z_TEXT_WIDTH = 16
Z_WIDTH = 64
AE_WIDTH = 32
PATCH_WIDTH = 128
Z_TEXT_ENCODER = {
    "hidden_size": Z_TEXT_WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}
Z_BLOCK = {"n_heads": 1, "n_kv_heads": 1, "multiple_of": 64, "ffn_dim_multiplier": 1.0}
Z_TRANSFORMER = {
    **Z_BLOCK,
    "axes_dims": [16, 24, 24],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}

NODE_CLASS_MAPPINGS = {}


def width(state_dict, name, axis):
    """The length of one axis of a tensor, None where the file has no such tensor."""
    return state_dict[name].shape[axis] if name in state_dict else None


def expect(function, *parameters):
    """Fails where ComfyUI's function no longer takes what we rely on."""
    missing = [name for name in parameters if name not in inspect.signature(function).parameters]
    if missing:
        raise AttributeError(f"{function.__qualname__} has no parameter {', '.join(missing)}")


def install():
    import comfy.ldm.qwen_image.model
    import comfy.model_detection
    import comfy.sd
    import comfy.text_encoders.llama
    import comfy.text_encoders.qwen_vl
    import torch

    detect_unet_config = comfy.model_detection.detect_unet_config
    load_text_encoder = comfy.sd.load_text_encoder_state_dicts
    vision_tower = comfy.text_encoders.qwen_vl.Qwen2VLVisionTransformer
    build_vision_tower = vision_tower.__init__
    text_encoder = comfy.text_encoders.llama.Qwen25_7BVLI
    show_picture = text_encoder.preprocess_embed

    # Everything is looked at before anything is changed.
    expect(detect_unet_config, "state_dict", "key_prefix")
    expect(load_text_encoder, "state_dicts", "model_options")
    expect(build_vision_tower, "output_hidden_size", *VISION_TOWER)
    expect(show_picture, "embed")
    expect(comfy.ldm.qwen_image.model.QwenImageTransformer2DModel.__init__, *TRANSFORMER)
    expect(comfy.text_encoders.llama.Qwen25_7BVLI_Config, *TEXT_ENCODER)

    @functools.wraps(detect_unet_config)
    def detect_demo_transformer(state_dict, key_prefix, *args, **kwargs):
        config = detect_unet_config(state_dict, key_prefix, *args, **kwargs)
        if config is not None and config.get("image_model") == "qwen_image":
            if width(state_dict, f"{key_prefix}txt_norm.weight", 0) == TEXT_WIDTH:
                head = width(state_dict, f"{key_prefix}transformer_blocks.0.attn.norm_q.weight", 0)
                trained = head == TRAINED_TRANSFORMER["attention_head_dim"]
                config.update(TRAINED_TRANSFORMER if trained else TRANSFORMER)
        return config

    @functools.wraps(load_text_encoder)
    def load_demo_text_encoder(state_dicts=[], *args, **kwargs):
        if any(width(file, "model.embed_tokens.weight", 1) == TEXT_WIDTH for file in state_dicts):
            # ComfyUI's own way to change a text encoder's configuration: "<name of the encoder>_model_config".
            options = kwargs.get("model_options", {})
            kwargs["model_options"] = {**options, "qwen25_7b_model_config": TEXT_ENCODER}
        return load_text_encoder(state_dicts, *args, **kwargs)

    @functools.wraps(build_vision_tower)
    def build_demo_vision_tower(self, *args, **kwargs):
        if kwargs.get("output_hidden_size") == TEXT_WIDTH:
            kwargs.update(VISION_TOWER)
        build_vision_tower(self, *args, **kwargs)

    @functools.wraps(show_picture)
    def show_demo_picture(self, embed, *args, **kwargs):
        # A thousand tokens of a picture would drown a prompt in so narrow a model.
        if embed.get("type") == "image" and self.model.embed_tokens.weight.shape[1] == TEXT_WIDTH:
            picture = torch.nn.functional.interpolate(embed["data"].movedim(-1, 1), (PICTURE, PICTURE), mode="area")
            embed = {**embed, "data": picture.movedim(1, -1)}
        return show_picture(self, embed, *args, **kwargs)

    comfy.model_detection.detect_unet_config = detect_demo_transformer
    comfy.sd.load_text_encoder_state_dicts = load_demo_text_encoder
    text_encoder.preprocess_embed = show_demo_picture
    vision_tower.__init__ = build_demo_vision_tower


def install_vae():
    """Newer versions read the width of the VAE from the file, and need none of this."""
    import comfy.ldm.wan.vae
    import comfy.sd

    build_vae = comfy.sd.VAE.__init__
    build_layers = comfy.ldm.wan.vae.WanVAE.__init__
    expect(build_vae, "sd")
    expect(build_layers, "dim")
    # Which file is being loaded is known above, and the layers are built below.
    loading = threading.local()

    @functools.wraps(build_vae)
    def build_demo_vae(self, sd=None, *args, **kwargs):
        loading.demo = sd is not None and width(sd, "decoder.head.0.gamma", 0) == VAE_WIDTH
        try:
            build_vae(self, sd, *args, **kwargs)
        finally:
            loading.demo = False

    @functools.wraps(build_layers)
    def build_demo_layers(self, *args, **kwargs):
        if getattr(loading, "demo", False) and "dim" in kwargs:
            kwargs["dim"] = VAE_WIDTH
        build_layers(self, *args, **kwargs)

    comfy.sd.VAE.__init__ = build_demo_vae
    comfy.ldm.wan.vae.WanVAE.__init__ = build_demo_layers


def install_z_image():
    """What makes a Z-Image of a Lumina 2 hangs on its real width, and so do its text encoder and its VAE."""
    import comfy.ldm.lumina.model as lumina
    import comfy.model_detection as detection
    import comfy.sd as sd
    import comfy.supported_models as supported

    detect_unet_config = detection.detect_unet_config
    detect_text_encoder = sd.detect_te_model
    load_text_encoder = sd.load_text_encoder_state_dicts
    build_time_embedding = lumina.TimestepEmbedder
    build_vae = sd.AutoencodingEngine
    text_encoder = sd.TEModel.QWEN3_4B

    expect(detect_unet_config, "state_dict", "key_prefix")
    expect(load_text_encoder, "state_dicts", "model_options")
    expect(build_time_embedding.__init__, "hidden_size", "output_size")

    class DemoZImage(supported.ZImage):
        unet_config = {"image_model": "lumina2", "dim": Z_WIDTH}

    @functools.wraps(detect_unet_config)
    def detect_demo_transformer(state_dict, key_prefix, *args, **kwargs):
        config = detect_unet_config(state_dict, key_prefix, *args, **kwargs)
        if config is not None and config.get("image_model") == "lumina2":
            if config.get("dim") == Z_WIDTH and config.get("cap_feat_dim") == Z_TEXT_WIDTH:
                config.update(Z_TRANSFORMER)
        return config

    def is_demo(file):
        return width(file, "model.embed_tokens.weight", 1) == Z_TEXT_WIDTH

    @functools.wraps(detect_text_encoder)
    def detect_demo_text_encoder(sd, *args, **kwargs):
        if is_demo(sd) and "model.layers.0.self_attn.q_norm.weight" in sd:
            return text_encoder
        return detect_text_encoder(sd, *args, **kwargs)

    @functools.wraps(load_text_encoder)
    def load_demo_text_encoder(state_dicts=[], *args, **kwargs):
        if any(is_demo(file) for file in state_dicts):
            options = kwargs.get("model_options", {})
            kwargs["model_options"] = {**options, "qwen3_4b_model_config": Z_TEXT_ENCODER}
        return load_text_encoder(state_dicts, *args, **kwargs)

    @functools.wraps(build_time_embedding, updated=())
    def build_demo_time_embedding(hidden_size, *args, output_size=None, **kwargs):
        # 256 outputs, of which blocks read no more than they are wide.
        if output_size is not None:
            output_size = min(output_size, hidden_size)
        return build_time_embedding(hidden_size, *args, output_size=output_size, **kwargs)

    @functools.wraps(build_vae, updated=())
    def build_demo_vae(*args, **kwargs):
        # The width of the decoder is read from the file, that of the encoder is not.
        if kwargs.get("decoder_config", {}).get("params", {}).get("ch") == AE_WIDTH:
            encoder = kwargs["encoder_config"]
            kwargs["encoder_config"] = {**encoder, "params": {**encoder["params"], "ch": AE_WIDTH}}
        return build_vae(*args, **kwargs)

    detection.detect_unet_config = detect_demo_transformer
    sd.detect_te_model = detect_demo_text_encoder
    sd.load_text_encoder_state_dicts = load_demo_text_encoder
    supported.models.insert(0, DemoZImage)
    lumina.TimestepEmbedder = build_demo_time_embedding
    sd.AutoencodingEngine = build_demo_vae


def install_model_patches():
    """Widths and numbers of blocks of model patches are the defaults of their classes."""
    import comfy.ldm.lumina.controlnet as z_control
    import nodes

    loader = nodes.NODE_CLASS_MAPPINGS["ModelPatchLoader"]
    load = loader.load_model_patch
    scope = load.__globals__
    build_blockwise = scope["QwenImageBlockWiseControlNet"]
    build_z_control = z_control.ZImage_Control
    folder_paths = scope["folder_paths"]
    expect(build_blockwise.__init__, "num_layers", "dim")

    class DemoZControl(build_z_control):
        def __init__(self, **kwargs):
            super().__init__(**{**kwargs, **Z_BLOCK, "dim": Z_WIDTH})

    def shapes_of(name):
        from safetensors import safe_open

        path = folder_paths.get_full_path_or_raise("model_patches", name)
        if not path.endswith(".safetensors"):
            return {}
        with safe_open(path, framework="pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}

    @functools.wraps(load)
    def load_demo_patch(self, name):
        shapes = shapes_of(name)
        blocks = sum(key.startswith("controlnet_blocks.") and key.endswith(".y_rms.weight") for key in shapes)
        try:
            if blocks and shapes.get("img_in.weight", [0])[0] == PATCH_WIDTH:
                scope["QwenImageBlockWiseControlNet"] = functools.partial(
                    build_blockwise, num_layers=blocks, dim=PATCH_WIDTH
                )
            if shapes.get("control_all_x_embedder.2-1.weight", [0])[0] == Z_WIDTH:
                # A subclass: the node that applies it asks for the class.
                z_control.ZImage_Control = DemoZControl
            return load(self, name)
        finally:
            scope["QwenImageBlockWiseControlNet"] = build_blockwise
            z_control.ZImage_Control = build_z_control

    loader.load_model_patch = load_demo_patch


if os.environ.get("QWEN_IMAGE_WORKER_DEMO") == "1":
    try:
        install_vae()
    except (ImportError, AttributeError) as error:
        logging.debug("qwen-image-worker: the VAE is left as it is: %s", error)
    for install_more in (install_z_image, install_model_patches):
        try:
            install_more()
        except (ImportError, AttributeError, KeyError) as error:
            logging.debug("qwen-image-worker: %s was left out: %s", install_more.__name__, error)
    try:
        install()
        logging.warning("qwen-image-worker: demo weights are in use: a small model that knows plain shapes draws the pictures")
    except (ImportError, AttributeError) as error:
        logging.error(
            "qwen-image-worker: this ComfyUI cannot load the demo weights, its code differs from that of 0.30.0: %s. "
            "Use the ComfyUI that qwen-image-worker installs, or real model files with DEMO_WEIGHTS=false.",
            error,
        )
