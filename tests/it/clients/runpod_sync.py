"""RunPod's Python client, the blocking one: reads a plan from standard input, prints what it saw."""

import json
import sys
import time

import requests
import runpod

plan = json.load(sys.stdin)
runpod.api_key = "any"
# Read when an Endpoint is made.
runpod.endpoint_url_base = plan["base"]
endpoint = runpod.Endpoint("any-endpoint")


def until(job, wanted):
    while (status := job.status()) not in wanted:
        time.sleep(0.05)
    return status


seen = {"health": endpoint.health()}

job = endpoint.run(plan["quick"])
seen["run"] = job.output(timeout=200)
seen["run_status"] = job.status()

# Also in an envelope, with all that may stand in it.
envelope = {"input": plan["quick"], "policy": {"executionTimeout": 60_000, "ttl": 3_600_000, "lowPriority": True}}
seen["run_sync"] = endpoint.run_sync(envelope, timeout=200)

job = endpoint.run(plan["slow"])
seen["stream"] = list(job.stream())
seen["stream_status"] = job.status()

job = endpoint.run(plan["raises"])
until(job, ["FAILED"])
seen["failed_output"] = job.output()
seen["failed_sync"] = endpoint.run_sync(plan["raises"], timeout=200)

job = endpoint.run(plan["endless"])
until(job, ["IN_PROGRESS"])
waiting = [endpoint.run(plan["endless"]) for _ in range(3)]
seen["purge"] = endpoint.purge_queue()
seen["cancel"] = job.cancel()
seen["cancelled_status"] = until(job, ["CANCELLED"])
seen["cancel_again"] = job.cancel()["status"]
for one in waiting:
    one.cancel()

try:
    endpoint.run({"input": {"steps": 4}})
except requests.HTTPError as error:
    seen["refused"] = [error.response.status_code, error.response.json()]

print(json.dumps(seen))
