"""OpenAI's Python client: reads a plan from standard input, prints what it saw."""

import base64
import hashlib
import json
import sys
import urllib.request

import openai

plan = json.load(sys.stdin)
client = openai.OpenAI(base_url=plan["base"], api_key=plan["key"], max_retries=0)
image, second, mask = (base64.b64decode(plan[name]) for name in ("image", "second", "mask"))
SIZE = {"size": "256x256"}


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

small = {"model": "Qwen/Qwen-Image", "prompt": "a harbour", "size": "96x64", "extra_body": {"seed": 5}}
by_url = client.images.generate(**small)
seen["url"] = by_url.data[0].url
with urllib.request.urlopen(by_url.data[0].url) as answer:
    seen["fetched"] = [answer.headers["content-type"], digest(answer.read())]
seen["inline"] = decoded(client.images.generate(**small, response_format="b64_json").data[0])
several = client.images.generate(**small, n=2, response_format="b64_json", output_format="webp")
seen["several"] = [decoded(picture) for picture in several.data]
seen["created"] = several.created

# As the specification prints it, and with a name that an application may have built in.
data_uri = f"data:image/png;base64,{plan['image']}"
for name, model in (("edit_as_specified", "Qwen/Qwen-Image-Edit"), ("edit_by_stand_in", "gpt-image-1")):
    edited = client.images.generate(
        model=model, prompt="Convert to quick pencil sketch", extra_body={"image": data_uri, "seed": 1, **SIZE}
    )
    seen[name] = edited.data[0].url

edit = {"prompt": "make it night", "response_format": "b64_json", "extra_body": {"seed": 3}, **SIZE}
seen["edit_one"] = decoded(client.images.edit(model="Qwen/Qwen-Image-Edit", image=image, **edit).data[0])
both = [("a.png", image, "image/png"), ("b.png", second, "image/png")]
seen["edit_two"] = decoded(client.images.edit(model="Qwen/Qwen-Image-Edit-2509", image=both, **edit).data[0])
masked = client.images.edit(image=image, mask=mask, prompt="a red door", response_format="b64_json")
seen["masked"] = masked.data[0].b64_json
seen["variation"] = client.images.create_variation(image=image, size="256x256").data[0].url

seen["stream"] = streamed(client.images.generate(**small, stream=True, partial_images=2))
seen["edit_stream"] = streamed(
    client.images.edit(image=image, prompt="x", stream=True, partial_images=1, extra_body={"seed": 9}, **SIZE)
)

seen["bad_size"] = failure(lambda: client.images.generate(prompt="p", size="8x8"))
seen["bad_model"] = failure(lambda: client.images.generate(prompt="p", model="sdxl"))
seen["bad_image"] = failure(lambda: client.images.edit(prompt="p", image=b"<svg xmlns='x'></svg>"))
seen["bad_mask"] = failure(lambda: client.images.edit(prompt="p", image=image, mask=second))
stranger = client.with_options(api_key="wrong")
seen["bad_key"] = failure(lambda: stranger.images.generate(prompt="p"))

print(json.dumps(seen))
