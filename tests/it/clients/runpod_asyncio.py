"""RunPod's Python client, the asyncio one: reads a plan from standard input, prints what it saw."""

import asyncio
import json
import sys

import runpod
from runpod import AsyncioEndpoint
from runpod.http_client import AsyncClientSession

plan = json.load(sys.stdin)
runpod.api_key = "any"
runpod.endpoint_url_base = plan["base"]


async def until(job, wanted):
    while (status := await job.status()) not in wanted:
        await asyncio.sleep(0.05)
    return status


async def main():
    seen = {}
    async with AsyncClientSession() as session:
        endpoint = AsyncioEndpoint("any-endpoint", session)
        seen["health"] = await endpoint.health()

        job = await endpoint.run(plan["quick"])
        seen["run"] = await job.output(timeout=200)
        seen["run_status"] = await job.status()

        job = await endpoint.run(plan["slow"])
        seen["stream"] = [chunk async for chunk in job.stream()]
        seen["stream_status"] = await job.status()

        job = await endpoint.run(plan["raises"])
        seen["failed_output"] = await job.output(timeout=200)
        seen["failed_status"] = await job.status()

        job = await endpoint.run(plan["endless"])
        await until(job, ["IN_PROGRESS"])
        waiting = [await endpoint.run(plan["endless"]) for _ in range(3)]
        seen["purge"] = await endpoint.purge_queue()
        seen["cancel"] = await job.cancel()
        seen["cancelled_status"] = await until(job, ["CANCELLED"])
        for one in waiting:
            await one.cancel()
    return seen


print(json.dumps(asyncio.run(main())))
