"""A worker made of RunPod's own Python package. Takes jobs until one tells it to end."""

import asyncio
import json
import os
import signal
import sys

os.environ.update(json.load(sys.stdin))
# The package logs to standard output, its process of pings to the last.
answers, sys.stdout = sys.stdout, sys.stderr
# It would look for a GPU.
os.environ.update(RUNPOD_SKIP_AUTO_SYSTEM_CHECKS="true", RUNPOD_SKIP_GPU_CHECK="true")

import runpod  # noqa: E402 - it reads the environment when it is imported


async def handler(job):
    request = job["input"]
    if "raise" in request:
        raise ValueError(request["raise"])
    if "error" in request:
        return {"error": request["error"]}
    for step in range(request.get("steps", 0)):
        runpod.serverless.progress_update(job, f"step {step}")
        # Each is sent by a thread of its own, which begins with an event loop.
        await asyncio.sleep(2)
    if request.get("wait"):
        await asyncio.Event().wait()
    if request.get("end"):
        os.kill(os.getpid(), signal.SIGTERM)
    return {"said": request["say"], "refresh_worker": request.get("refresh", False)}


runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: 2})
print(json.dumps("ended"), file=answers)
