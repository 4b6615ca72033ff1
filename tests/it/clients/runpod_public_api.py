"""RunPod's Python client at RunPod's own API, as a program uses it that sends jobs there: reads a plan, prints what it saw."""

import json
import sys
import time

import runpod

plan = json.load(sys.stdin)
runpod.api_key = plan["key"]
# Read when an Endpoint is made.
runpod.endpoint_url_base = plan["base"]
endpoint = runpod.Endpoint("ep")


def states(job):
    """All that /status says of a job, what is the same once."""
    seen = []
    while not seen or seen[-1][0] not in ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"):
        told = endpoint.rp_client.get(f"ep/status/{job.job_id}")
        state = [told["status"], told.get("output"), told.get("error")]
        if not seen or seen[-1] != state:
            seen.append(state)
        time.sleep(0.05)
    return seen


seen = {"health": endpoint.health()}
job = endpoint.run({"input": {"say": "á", "steps": 2}, "policy": {"executionTimeout": 60_000, "ttl": 3_600_000}})
seen["states"] = states(job)
seen["output"] = job.output(timeout=10)
seen["stream"] = list(job.stream())
seen["failed"] = states(endpoint.run({"raise": "the lamp is out"}))[-1]
job = endpoint.run({"steps": 1, "wait": True})
# The package passes over a stop that comes before the job has begun.
while endpoint.rp_client.get(f"ep/status/{job.job_id}").get("output") != "step 0":
    time.sleep(0.05)
seen["cancel"] = job.cancel()
seen["cancelled"] = job.status()
try:
    runpod.Endpoint("ep", api_key="wrong").run({"say": "no"})
except RuntimeError as error:
    seen["wrong_key"] = str(error)
seen["last"] = states(endpoint.run({"say": [], "refresh": True, "end": True}))[-1]

print(json.dumps(seen))
