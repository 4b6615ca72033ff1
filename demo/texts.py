"""The demo's text encoder: the very values that the worker writes (seed 12), and ComfyUI's own model and tokenizer."""

import numpy
import torch

from comfy_parts import TEXT_ENCODER, TEXT_WIDTH, VISION_TOWER, comfy

SEED = 12
# Side of what the demo's text encoder is shown of a picture, in pixels.
PICTURE = 56


def noise(seed, count, deviation):
    """SplitMix64 from the given state, as `Noise` in safetensors.rs; gives the values and the next state."""
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        state = int(z[-1])
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z ^= z >> numpy.uint64(31)
    total = sum(((z >> numpy.uint64(shift)) & numpy.uint64(0xFFFF)).astype(numpy.int64) for shift in (0, 16, 32, 48))
    scale = numpy.float32(deviation) / numpy.float32(37837.227)
    values = (total.astype(numpy.float32) - numpy.float32(131070.0)) * scale
    return torch.from_numpy(values).to(torch.bfloat16), state


def values():
    """Name and tensor of everything in the file. The order decides the values."""
    shapes = [("model.embed_tokens.weight", (152064, 64))]
    for layer in ("q_proj", "k_proj", "v_proj"):
        shapes += [(f"model.layers.0.self_attn.{layer}.weight", (512, 64)), (f"model.layers.0.self_attn.{layer}.bias", (512,))]
    shapes += [("model.layers.0.self_attn.o_proj.weight", (64, 512))]
    shapes += [("model.layers.0.mlp.gate_proj.weight", (128, 64)), ("model.layers.0.mlp.up_proj.weight", (128, 64)),
               ("model.layers.0.mlp.down_proj.weight", (64, 128))]
    found, state = {}, SEED
    for name, shape in shapes:
        if name.endswith("bias"):
            found[name] = torch.zeros(shape, dtype=torch.bfloat16)
        else:
            flat, state = noise(state, int(numpy.prod(shape)), 0.02)
            found[name] = flat.view(shape)
    for name in ("model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight", "model.norm.weight"):
        found[name] = torch.ones(TEXT_WIDTH, dtype=torch.bfloat16)
    flat, state = noise(state, 64 * 3 * 2 * 14 * 14, 0.02)
    found["visual.patch_embed.proj.weight"] = flat.view(64, 3, 2, 14, 14)
    for name in ("visual.blocks.0.norm1.weight", "visual.blocks.0.norm2.weight", "visual.merger.ln_q.weight"):
        found[name] = torch.ones(64, dtype=torch.bfloat16)
    for name, rows, columns in (("blocks.0.attn.qkv", 192, 64), ("blocks.0.attn.proj", 64, 64), ("blocks.0.mlp.gate_proj", 128, 64),
                                ("blocks.0.mlp.up_proj", 128, 64), ("blocks.0.mlp.down_proj", 64, 128), ("merger.mlp.0", 256, 256),
                                ("merger.mlp.2", 64, 256)):
        flat, state = noise(state, rows * columns, 0.02)
        # What it brings of a picture is nothing: the transformer sees that for itself.
        found[f"visual.{name}.weight"] = torch.zeros(rows, columns, dtype=flat.dtype) if name == "merger.mlp.2" else flat.view(rows, columns)
        found[f"visual.{name}.bias"] = torch.zeros(rows, dtype=torch.bfloat16)
    return found


class Texts:
    """Turns captions into what the transformer gets: for each its tokens' embeddings, without the template's beginning."""

    def __init__(self):
        tower = comfy.text_encoders.qwen_vl.Qwen2VLVisionTransformer
        build = tower.__init__
        tower.__init__ = lambda self, *args, **kwargs: build(self, *args, **{**kwargs, **VISION_TOWER})
        self.tokenizer = comfy.text_encoders.qwen_image.QwenImageTokenizer()
        self.model = comfy.text_encoders.qwen_image.te(dtype_llama=torch.bfloat16)(
            device="cpu", dtype=torch.bfloat16, model_options={"qwen25_7b_model_config": TEXT_ENCODER})
        tower.__init__ = build
        missing = self.model.load_sd({**values()})
        print("text encoder", missing)
        self.plain = self.tokenizer.qwen25_7b.tokenizer

    @torch.no_grad()
    def encode(self, text):
        """One text, by the way that ComfyUI goes."""
        out, _, _ = self.model.encode_token_weights(self.tokenizer.tokenize_with_weights(text))
        return out[0].float()

    @torch.no_grad()
    def encode_edit(self, text, pictures, is_plus):
        """An instruction beside so many pictures, as the node `TextEncodeQwenImageEdit` (of one) or `TextEncodeQwenImageEditPlus` encodes it."""
        picture, place = torch.zeros(1, PICTURE, PICTURE, 3), "<|vision_start|><|image_pad|><|vision_end|>"
        template = self.tokenizer.llama_template_images.replace(place, "") if is_plus else None
        if is_plus:
            text = "".join(f"Picture {number + 1}: {place}" for number in range(pictures)) + text
        tokens = self.tokenizer.tokenize_with_weights(text, images=[picture] * pictures, llama_template=template)
        return self.model.encode_token_weights(tokens)[0][0].float()

    @torch.no_grad()
    def encode_many(self, texts):
        """Many, of which those of one length go together. The same as `encode`, but faster."""
        before, after = self.tokenizer.llama_template.split("{}")
        head = self.plain(before)["input_ids"]
        rows = [head + self.plain(text + after)["input_ids"] for text in texts]
        by_length, found = {}, [None] * len(texts)
        for place, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(place)
        language = self.model.qwen25_7b.transformer
        start = len(head)
        for places in by_length.values():
            for begin in range(0, len(places), 256):
                part = places[begin:begin + 256]
                out = language.model(torch.tensor([rows[place] for place in part]), dtype=torch.float32)[0]
                for place, row in zip(part, out):
                    found[place] = row[start:].float()
        return found


if __name__ == "__main__":
    texts = Texts()
    for text in ("", "a red circle on a blue background", "右上角有一个白色的月亮，蓝色背景"):
        one, many = texts.encode(text), texts.encode_many([text])[0]
        print(one.shape, many.shape, (one - many).abs().max(), one.std(), one[0, :4])
