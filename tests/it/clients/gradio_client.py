"""Gradio's Python client, 2.x and 1.x: reads a plan from standard input, prints what it saw."""

import json
import sys
import time

from gradio_client import Client

plan = json.load(sys.stdin)
client = Client(plan["url"], verbose=False, headers={"Authorization": f"Bearer {plan['key']}"})


def failure(call):
    """What a call raises, as a caller sees it."""
    try:
        return {"result": call()}
    except Exception as error:
        told = {name: getattr(error, name, None) for name in ("title", "duration", "visible")}
        return {"raised": type(error).__name__, "message": str(error), **told}


seen = {"api": client.view_api(return_format="dict")}

# By position and by name; what is left out has the defaults.
seen["by_position"] = client.predict("a red lighthouse", 42, False, "1:1", 4, 2, False, api_name="/infer")
seen["by_name"] = client.predict(
    prompt="a red lighthouse",
    seed=42,
    randomize_seed=False,
    aspect_ratio="1:1",
    num_inference_steps=2,
    prompt_enhance=False,
    api_name="/infer",
)
seen["enhanced"] = client.predict("a red lighthouse", seed=42, randomize_seed=False, num_inference_steps=1)
seen["any_seed"] = client.predict("a red lighthouse", num_inference_steps=1, prompt_enhance=False)[1]

# Slow enough that one is seen who looks now and then: the client's own thread does so every 50 ms.
job = client.submit("a blue boat", plan["seed"], False, "1:1", 4, 40, False)
progress = []
while not job.done():
    status = job.status()
    if status.progress_data:
        unit = status.progress_data[0]
        progress.append([unit.index, unit.length, unit.unit, unit.desc])
    time.sleep(0.01)
seen["submitted"], seen["progress"] = job.result(), progress

several = [client.submit("a boat", seed, False, "1:1", 4, 1, False) for seed in (1, 2, 3)]
seen["several"] = [job.result()[1] for job in several]

# What is refused at once leaves what runs beside it alone.
job = client.submit("a green boat", plan["seed"], False, "16:9", 4, 6, False)
refused = [client.submit("x", 0, False, "5:4", 4, 2, False) for _ in range(6)]
seen["refused"] = [failure(one.result)["raised"] for one in refused]
seen["beside_refused"] = job.result()[1]

seen["wrong_ratio"] = failure(lambda: client.predict("x", 0, False, "5:4", 4, 2, False))
seen["wrong_steps"] = failure(lambda: client.predict("x", 0, False, "1:1", 4, 101, False))
seen["unknown_name"] = failure(lambda: client.predict("x", colour="red"))
seen["no_prompt"] = failure(lambda: client.predict())

job = client.submit("a slow boat", plan["seed"], False, "16:9", 4, 100, False)
while job.status().code.name != "PROGRESS":
    time.sleep(0.01)
job.cancel()
seen["cancelled"] = failure(lambda: job.result(timeout=60))
# The session goes on.
seen["after_cancel"] = client.predict("a boat", 1, False, "1:1", 4, 1, False)[1]

seen["no_key"] = failure(lambda: Client(plan["url"], verbose=False))["raised"]
limited = Client(plan["limited"], verbose=False)
seen["quota"] = failure(lambda: [limited.predict("x", plan["seed"] + n, False, "1:1", 4, 20, False) for n in range(50)])

print(json.dumps(seen))
