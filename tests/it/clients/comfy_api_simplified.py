"""comfy-api-simplified: reads a plan from standard input, prints what it saw."""

import hashlib
import json
import pathlib
import sys
import tempfile
import time

from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
from comfy_api_simplified.exceptions import ComfyApiError

plan = json.load(sys.stdin)
folder = pathlib.Path(tempfile.mkdtemp())
key = plan.get("key")
api = ComfyApiWrapper(plan["base"], *(["anybody", key] if key else []))


def workflow(name):
    path = folder / f"{name}.json"
    path.write_text(json.dumps(plan[name]))
    return ComfyWorkflowWrapper(str(path))


def failure(call):
    try:
        return call()
    except ComfyApiError as error:
        return str(error)


seen = {}
seen["pictures"] = {
    name: hashlib.sha256(content).hexdigest()
    for name, content in api.queue_and_wait_images(workflow("graph"), "Save").items()
}
picture = folder / "a.png"
picture.write_bytes(next(iter(api.queue_and_wait_images(workflow("second"), "Save").values())))
seen["upload"] = api.upload_image(str(picture))
queued = api.queue_prompt(plan["slow"])
seen["before"] = api.get_queue_size_before(queued["prompt_id"])
# Other prompts may be before it, and an interrupt is for one that runs.
while queued["prompt_id"] not in [running[1] for running in api.get_queue()["queue_running"]]:
    time.sleep(0.05)
api.interrupt()
history = {}
while queued["prompt_id"] not in history:
    history = api.get_history(queued["prompt_id"])
    time.sleep(0.05)
seen["interrupted"] = history[queued["prompt_id"]]["status"]["status_str"]
seen["refused"] = failure(lambda: api.queue_prompt(plan["wrong"]))
seen["failed"] = failure(lambda: api.queue_and_wait_images(workflow("fails"), "Save"))
seen["class"] = list(api.get_object_info("SaveImage"))
seen["version"] = api.get_system_stats()["system"]["comfyui_version"]
seen["embeddings"] = api.get_embeddings()
print(json.dumps(seen))
