"""OpenAI's Python client, pictures from pictures: reads a plan from standard input, prints what it saw."""

import base64
import hashlib
import json
import sys

import openai

plan = json.load(sys.stdin)
client = openai.OpenAI(base_url=plan["base"], api_key=plan["key"], max_retries=0)
image, second, mask = (base64.b64decode(plan[name]) for name in ("image", "second", "mask"))


def digest(content):
    return hashlib.sha256(content).hexdigest()


def decoded(picture):
    return digest(base64.b64decode(picture.b64_json))


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


# The size costs little, the encoding of the pictures much: one step is enough.
quick = {"seed": 3, "steps": 1}
seen = {}

# As the specification prints it.
data_uri = f"data:image/png;base64,{plan['image']}"
specified = client.images.generate(
    model="Qwen/Qwen-Image-Edit",
    prompt="Convert to quick pencil sketch",
    extra_body={"image": data_uri, "size": "256x256", **quick},
)
seen["as_specified"] = specified.data[0].url

edit = {"prompt": "make it night", "response_format": "b64_json", "size": "256x256", "extra_body": quick}
both = [("a.png", image, "image/png"), ("b.png", second, "image/png")]
seen["edit_two"] = decoded(client.images.edit(model="Qwen/Qwen-Image-Edit-2509", image=both, **edit).data[0])
# With a name that an application may have built in.
masked = client.images.edit(model="gpt-image-1", image=image, mask=mask, **edit)
other = {**edit, "extra_body": {"seed": 4, "steps": 1}}
masked_again = client.images.edit(model="gpt-image-1", image=image, mask=mask, **other)
seen["masked"] = [answer.data[0].b64_json for answer in (masked, masked_again)]
events = client.images.edit(
    image=image, prompt="x", stream=True, partial_images=1, size="256x256", extra_body={"steps": 2}
)
seen["edit_stream"] = streamed(events)

print(json.dumps(seen))
