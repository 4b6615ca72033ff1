"""MCP servers that make pictures by OpenAI's Images API: reads a plan from standard input, prints what they gave."""

import asyncio
import base64
import hashlib
import json
import os
import pathlib
import sys
import tempfile

plan = json.load(sys.stdin)
os.environ.update({"OPENAI_API_KEY": plan["key"], "OPENAI_BASE_URL": plan["base"]})
folder = pathlib.Path(tempfile.mkdtemp())
picture = folder / "a.png"
picture.write_bytes(base64.b64decode(plan["image"]))


def digest(content):
    return hashlib.sha256(content).hexdigest()


from image_generation_mcp.providers.openai import OpenAIImageProvider
from image_generation_mcp.providers.types import InputImage

# Its sizes are 1024 a side and more, which takes a while without a GPU.
import image_generation_mcp.providers.openai as sizes

sizes._GPT_IMAGE_SIZES.update({"1:1": "256x256", "3:2": "96x64"})
sizes._DALLE3_SIZES["3:2"] = "96x64"


async def image_generation_mcp():
    seen = {}
    for model in ["gpt-image-2", "gpt-image-1.5", "chatgpt-image-latest", "dall-e-3"]:
        provider = OpenAIImageProvider(api_key=plan["key"], model=model)
        made = await provider.generate("a harbour", quality="low", aspect_ratio="3:2")
        seen[model] = [made.content_type, digest(made.image_data)]
    provider = OpenAIImageProvider(api_key=plan["key"], model="gpt-image-2")
    reference = InputImage(data=picture.read_bytes(), content_type="image/png")
    made = await provider.generate("make it night", quality="low", reference_images=[reference])
    seen["edit"] = [made.content_type, digest(made.image_data)]
    return seen


# What its tools do. They themselves need Python 3.12.
from gpt_image_mcp.adapters.images_client import ImagesClient
from gpt_image_mcp.domain.image_store import ImageStore
from openai import AsyncOpenAI


async def mcp_gpt_image():
    client = ImagesClient(AsyncOpenAI(), snapshot=None, timeout=240)
    store = ImageStore(folder)
    common = {"output_compression": 100, "background": "auto", "moderation": "auto", "n": 1}
    seen = {}
    for model, quality, form in [
        ("gpt-image-2.5-flare", "xhigh", "png"),
        ("gpt-image-2.5-sunburst", "max", "webp"),
        ("gpt-image-2.5-flare", "auto", "jpeg"),
    ]:
        payloads = await client.generate(
            model=model, prompt="a harbour", quality=quality, output_format=form, size="96x64", **common
        )
        seen[f"{model} {quality}"] = [store.save(payload, "a harbour").output_format for payload in payloads]
    payloads = await client.edit(
        model="gpt-image-2.5-sunburst",
        prompt="make it night",
        image_paths=[picture, picture],
        mask_path=None,
        quality="low",
        output_format="png",
        size="256x256",
        **common,
    )
    seen["edit"] = [store.save(payload, "edit").output_format for payload in payloads]
    return seen


async def main():
    return {"image_generation_mcp": await image_generation_mcp(), "mcp_gpt_image": await mcp_gpt_image()}


print(json.dumps(asyncio.run(main())))
