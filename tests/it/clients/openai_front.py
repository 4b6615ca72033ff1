"""OpenAI's Python client at a front: reads a plan from standard input, prints what it saw."""

import base64
import json
import sys
import urllib.request

import openai

plan = json.load(sys.stdin)
client = openai.OpenAI(base_url=plan["base"], api_key="any", max_retries=0)
small = {"model": "Qwen/Qwen-Image", "prompt": "a harbour", "size": "96x64", "quality": "low"}

raw = client.images.with_raw_response.generate(**small, response_format="b64_json", extra_body={"seed": plan["seed"]})
seen = {"engine": raw.headers.get("x-engine"), "inline": raw.parse().data[0].b64_json}
by_url = client.images.generate(**small, response_format="url", extra_body={"seed": plan["seed"]})
with urllib.request.urlopen(by_url.data[0].url) as answer:
    seen["fetched"] = base64.b64encode(answer.read()).decode()

print(json.dumps(seen))
