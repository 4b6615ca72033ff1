"""Programs that are built on OpenAI's Images API, as their users call them: reads a plan from standard input, prints what the
program that it names gave."""

import base64
import hashlib
import io
import json
import os
import sys
import urllib.request

plan = json.load(sys.stdin)
os.environ.update(
    {
        "OPENAI_API_KEY": plan["key"],
        "OPENAI_BASE_URL": plan["base"],
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
)
image = base64.b64decode(plan["image"])
seen = {}


def digest(content):
    return hashlib.sha256(content).hexdigest()


def decoded(text):
    return digest(base64.b64decode(text))


def fetched(url):
    with urllib.request.urlopen(url) as answer:
        return digest(answer.read())


def haystack():
    from haystack.components.generators import OpenAIImageGenerator

    for model in ["gpt-image-2", "Qwen/Qwen-Image"]:
        generator = OpenAIImageGenerator(model=model, size="96x64", quality="low", api_base_url=plan["base"], timeout=240)
        seen[model] = decoded(generator.run("a harbour")["images"][0])


def langchain():
    from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

    for model in ["dall-e-3", "Qwen/Qwen-Image"]:
        wrapper = DallEAPIWrapper(model=model, size="96x64", quality="low", base_url=plan["base"], api_key=plan["key"])
        seen[model] = fetched(wrapper.run("a harbour"))


def litellm():
    import litellm

    litellm.telemetry = False
    common = {"api_base": plan["base"], "api_key": plan["key"], "size": "96x64"}
    for model in ["openai/gpt-image-1", "openai/Qwen/Qwen-Image", "openai/dall-e-3"]:
        answer = litellm.image_generation(model=model, prompt="a harbour", quality="low", **common)
        picture = answer.data[0]
        seen[model] = [
            decoded(picture.b64_json) if picture.b64_json else None,
            fetched(picture.url) if picture.url else None,
        ]
    for model in ["openai/gpt-image-1", "openai/Qwen/Qwen-Image-Edit-2511"]:
        answer = litellm.image_edit(
            model=model, image=[io.BytesIO(image)], prompt="make it night", **{**common, "size": "256x256"}
        )
        seen[model + " edit"] = decoded(answer.data[0].b64_json)


{"haystack": haystack, "langchain": langchain, "litellm": litellm}[plan["program"]]()
print(json.dumps(seen))
