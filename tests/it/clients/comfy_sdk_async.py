"""comfy-sdk, its client of asyncio, which does much at once: reads a plan from standard input, prints what it saw."""

import asyncio
import base64
import copy
import io
import json
import os
import sys
import tempfile
import traceback
import uuid

from blake3 import blake3
from comfy_low import ApiError, AsyncComfyLow
from comfy_sdk import AsyncComfy, ComfyError, OutputReady, Preview, Progress, StatusChange

plan = json.load(sys.stdin)
os.environ.pop("COMFY_API_KEY", None)
picture = base64.b64decode(plan["picture"])
seen = {"broken": {}}


def client_of(base, key=None):
    os.environ["COMFY_BASE_URL"] = base
    return AsyncComfy(api_key=key)


async def refused(call):
    try:
        return {"done": str(await call)}
    except (ComfyError, ApiError) as error:
        return {
            "class": type(error).__name__,
            "code": error.code,
            "status": error.http_status,
            "message": str(error),
            "details": error.details,
            "retry_after": error.retry_after,
        }


async def failed(job):
    """How the client tells that a job did not succeed."""
    try:
        return {"done": (await job.result()).status}
    except ComfyError as error:
        told = getattr(error, "error", None)
        of_node = {name: getattr(told, name) for name in ("message", "node_id", "class_type")} if told else None
        return {"class": type(error).__name__, "code": error.code, "status": job.status, "error": of_node}


def workflow(client, graph):
    return client.workflows.from_json(copy.deepcopy(graph))


def loads(client, image):
    workflow_of_it = workflow(client, plan["load"])
    workflow_of_it.set_input("1", "image", image)
    return workflow_of_it


async def output(one):
    """An output, and its bytes in each way that there is to get them."""
    whole = await one.to_bytes()
    stream = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        in_file = (await one.to_file(os.path.join(folder, one.name))).read_bytes()
    return {
        "id": one.id,
        "node": one.node_id,
        "name": one.name,
        "type": one.type,
        "content_type": one.content_type,
        "job": one.job_id,
        "size_is_right": one.size_bytes == len(whole) == await one.to_stream(stream),
        "ways_agree": whole == in_file == stream.getvalue(),
        "start": (await one.to_bytes(range=(0, 7))).hex(),
        "rest_is_right": await one.to_bytes(range=(8, len(whole) - 1)) == whole[8:],
        "hash": "blake3:" + blake3(whole).hexdigest(),
        "content": base64.b64encode(whole).decode(),
    }


async def heard(job):
    """What a stream of events brings, to its end."""
    events = [event async for event in job.events()]
    previews = [event for event in events if isinstance(event, Preview)]
    return {
        "kinds": [type(event).__name__ for event in events],
        "statuses": [event.status for event in events if isinstance(event, StatusChange)],
        "progress": [event.value for event in events if isinstance(event, Progress)],
        "nodes": [[event.nodes_done, event.nodes_total] for event in events if isinstance(event, Progress)],
        "steps": [[event.step, event.steps] for event in events if isinstance(event, Progress)],
        "previews": sorted({event.content_type + " " + event.data[:2].hex() for event in previews}),
        "outputs": [event.output.id for event in events if isinstance(event, OutputReady)],
        "last": [type(events[-1]).__name__, getattr(events[-1], "status", None)],
    }


async def essentials(client):
    """What works on each address and with each key."""
    asset = client.assets.from_bytes(picture, filename="essential.png")
    job = await client.run(loads(client, asset))
    heard_job = await client.submit(workflow(client, plan["quick"][12]))
    return {
        "output": await output(job.outputs[0]),
        "events": await heard(heard_job),
        "listed": [summary.id in (job.id, heard_job.id) async for summary in client.list_jobs(limit=2)],
        "status": (await heard_job.refresh()).status,
        "url": (await (await client.assets.get(asset.id)).get_download_url()).url,
    }


async def assets(client):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ein Füchslein.png")
        with open(path, "wb") as file:
            file.write(picture)
        from_path = client.assets.from_file(path)
        await from_path.commit()
    again = client.assets.from_bytes(picture, filename="again.png")
    await again.commit()
    large = os.urandom(3_000_000)
    streamed = client.assets.from_stream(io.BytesIO(large), filename="noise.bin")
    # The same bytes from five at once: whoever is first brings them.
    content = os.urandom(300_000)
    crowd = [client.assets.from_bytes(content, filename=f"crowd-{n}.bin") for n in range(5)]
    await asyncio.gather(*(asset.commit() for asset in (streamed, *crowd)))
    back = await client.assets.get(from_path.id)
    first = from_path.id
    await from_path.delete()
    return {
        "hash_is_right": from_path.hash == "blake3:" + blake3(picture).hexdigest(),
        "created_new": [from_path.created_new, again.created_new, streamed.created_new],
        "crowd": [len({asset.id for asset in crowd}), len({asset.hash for asset in crowd})],
        "new_in_crowd": sum(asset.created_new for asset in crowd),
        "name": back.file_path,
        "gone": [await refused(client.assets.delete(first)), await refused(client.assets.get(first))],
        "left": (await client.assets.get(again.id)).file_path,
        "bytes": await client._low.head_asset_by_hash(back.hash),
    }


async def runs(client):
    async def one(number):
        asset = client.assets.from_bytes(base64.b64decode(plan["pictures"][number]), filename="same-name.png")
        job = await client.run(loads(client, asset))
        return await output(job.outputs[0])

    several = await asyncio.gather(*(one(number) for number in range(4)))
    made = await client.assets.get(several[0]["id"])
    second = await client.run(loads(client, made), timeout=60)
    text = await client.run(workflow(client, plan["text"]))
    back = await second.get_workflow()
    return {
        "outputs": [*several, await output(second.outputs[0])],
        "text": [[one.type, one.node_id, (await one.to_bytes()).decode()] for one in text.outputs],
        "format": back.format,
        "status": (await client.jobs.get(second.id)).status,
    }


async def events(client):
    job = await client.submit(workflow(client, plan["steps"]))
    streams = await asyncio.gather(heard(job), heard(await client.jobs.get(job.id)))
    await job.refresh()
    return {
        "streams": streams,
        "outputs": [one.id for one in job.outputs],
        "status": job.status,
        "late": await heard(job),
    }


async def many(client):
    """Jobs at once, each with a stream of its own."""
    jobs = await asyncio.gather(*(client.submit(workflow(client, graph)) for graph in plan["quick"][:6]))
    streams = await asyncio.gather(*(heard(job) for job in jobs))
    await asyncio.gather(*(job.refresh() for job in jobs))
    return {
        "last": [stream["last"] for stream in streams],
        "outputs_told": [
            stream["outputs"] == [one.id for one in job.outputs] for job, stream in zip(jobs, streams, strict=True)
        ],
        "outputs": [len(job.outputs) for job in jobs],
    }


async def cancels(client):
    running = await client.submit(workflow(client, plan["slow"]))
    waiting = await client.submit(workflow(client, plan["quick"][6]))
    streams = [asyncio.create_task(heard(job)) for job in (running, waiting)]
    while (await running.refresh()).status == "queued":
        await asyncio.sleep(0.05)
    before = [running.status, (await waiting.refresh()).status]
    await waiting.cancel()
    asked = [waiting.status, (await running.cancel()).status]
    ended = await asyncio.gather(failed(waiting), failed(running))
    return {
        "before": before,
        "asked": asked,
        "ended": ended,
        "again": [(await running.cancel()).status, (await waiting.cancel()).status],
        "events": [(await stream)["last"] for stream in streams],
    }


async def lists(client):
    labels = {"client": "acme"}
    labelled = await asyncio.gather(
        *(client.submit(workflow(client, graph), metadata=labels) for graph in plan["quick"][7:10])
    )
    before = {summary.id async for summary in client.list_jobs()}
    walked = []
    async for summary in client.list_jobs(limit=2):
        walked.append(summary.id)
        if len(walked) == 2:
            await client.submit(workflow(client, plan["quick"][10]))
    ours = [summary.id async for summary in client.list_jobs(metadata=labels, limit=2)]
    return {
        "each_once": len(set(walked)) == len(walked),
        "all_there": before <= set(walked),
        "by": sorted(ours) == sorted(job.id for job in labelled),
        "labels": [job.metadata for job in labelled],
        "number": await refused(client.submit(workflow(client, plan["quick"][0]), metadata={"run": 7})),
    }


async def errors(client):
    async def submit(graph, **more):
        return await refused(client.submit(workflow(client, graph), **more))

    key = str(uuid.uuid4())
    missing = {"__type": "core/ASSET", "info": {"id": str(uuid.uuid4())}}
    failing = await client.submit(workflow(client, plan["fails"]))
    return {
        "class": await submit(plan["wrong"], idempotency_key=key),
        "ui": await submit({"nodes": [], "links": []}),
        "asset": await refused(client.submit(loads(client, missing), idempotency_key=key)),
        "race": await asyncio.gather(*(submit(plan["quick"][11], idempotency_key=key) for _ in range(5))),
        "no_job": await refused(client.jobs.get(str(uuid.uuid4()))),
        "failed": await failed(failing),
    }


async def queue_full(_):
    async with client_of(plan["full"]) as full, AsyncComfyLow(plan["full"]) as low:
        first = await full.submit(workflow(full, plan["steps"]))
        told = await refused(low.post_jobs(plan["quick"][0]))
        second = await full.submit(workflow(full, plan["quick"][0]), idempotency_key=plan["waiting_key"])
        return {
            "told": told,
            "waited": (await second.result()).status,
            "first": (await first.refresh()).status,
        }


async def edit_port(_):
    async with client_of(plan["edit"]) as client:
        return await essentials(client)


async def locked(_):
    told = {}
    for name, key in (("none", None), ("wrong", "not-" + plan["key"])):
        async with client_of(plan["locked"], key) as stranger:
            told[name] = [
                await refused(stranger.submit(workflow(stranger, plan["quick"][0]))),
                await refused(stranger.assets.from_bytes(b"x").commit()),
                await refused(stranger.jobs.get(str(uuid.uuid4()))),
            ]
    # The client finds the key where its users keep it.
    os.environ["COMFY_API_KEY"] = plan["key"]
    async with client_of(plan["locked"]) as client:
        told["right"] = await essentials(client)
    return told


async def main():
    others = {"queue_full": "full", "edit_port": "edit", "locked": "locked"}
    async with client_of(plan["base"]) as client:
        for does in (assets, runs, events, many, cancels, lists, errors, queue_full, edit_port, locked):
            name = does.__name__
            if name in others and not plan[others[name]]:
                continue
            try:
                seen[name] = await does(client)
            except Exception:
                # The other parts are still to be seen.
                seen["broken"][name] = traceback.format_exc()[-1500:]


asyncio.run(main())
print(json.dumps(seen, default=str))
