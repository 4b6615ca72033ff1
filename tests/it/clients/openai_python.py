"""OpenAI's Python client, pictures from text and what is refused: reads a plan from standard input, prints what it saw."""

import base64
import hashlib
import json
import sys
import urllib.request

import openai

plan = json.load(sys.stdin)
client = openai.OpenAI(base_url=plan["base"], api_key=plan["key"], max_retries=0)
image, second = (base64.b64decode(plan[name]) for name in ("image", "second"))


def digest(content):
    return hashlib.sha256(content).hexdigest()


def decoded(picture):
    return digest(base64.b64decode(picture.b64_json))


def failure(call):
    try:
        return str(call())
    except openai.APIStatusError as error:
        return {
            "class": type(error).__name__,
            "status": error.status_code,
            "code": error.code,
            "param": error.param,
            "type": error.type,
            "message": error.message,
            "request_id": error.request_id,
        }


def streamed(events):
    return [
        {
            "type": event.type,
            "index": getattr(event, "partial_image_index", None),
            "format": event.output_format,
            "image": digest(base64.b64decode(event.b64_json)),
        }
        for event in events
    ]


seen = {"models": [model.id for model in client.models.list()]}
seen["one_model"] = client.models.retrieve("Qwen/Qwen-Image-Edit").id
seen["no_model"] = failure(lambda: client.models.retrieve("Qwen/Qwen-Image-3"))

small = {"model": "Qwen/Qwen-Image", "prompt": "a harbour", "size": "96x64", "extra_body": {"seed": 5}}
by_url = client.images.generate(**small)
seen["url"] = by_url.data[0].url
with urllib.request.urlopen(by_url.data[0].url) as answer:
    seen["fetched"] = [answer.headers["content-type"], digest(answer.read())]
seen["inline"] = decoded(client.images.generate(**small, response_format="b64_json").data[0])
several = client.images.generate(**small, n=2, response_format="b64_json", output_format="webp")
seen["several"] = [decoded(picture) for picture in several.data]
seen["created"] = several.created

streamed_alone = {**small, "extra_body": {"seed": 7}}
seen["stream"] = streamed(client.images.generate(**streamed_alone, stream=True, partial_images=2))
seen["bad_size"] = failure(lambda: client.images.generate(prompt="p", size="8x8"))
seen["bad_model"] = failure(lambda: client.images.generate(prompt="p", model="sdxl"))
seen["bad_image"] = failure(lambda: client.images.edit(prompt="p", image=b"<svg xmlns='x'></svg>"))
seen["bad_mask"] = failure(lambda: client.images.edit(prompt="p", image=image, mask=second))
stranger = client.with_options(api_key="wrong")
seen["bad_key"] = failure(lambda: stranger.images.generate(prompt="p"))

print(json.dumps(seen))
