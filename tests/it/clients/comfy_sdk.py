"""comfy-sdk, its client that waits: reads a plan from standard input, prints what it saw."""

import base64
import copy
import io
import json
import os
import sys
import tempfile
import time
import traceback
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor

from blake3 import blake3
from comfy_low import ApiError, ComfyLow
from comfy_sdk import Comfy, ComfyError, OutputReady, Preview, Progress, StatusChange

plan = json.load(sys.stdin)
os.environ.pop("COMFY_API_KEY", None)
picture = base64.b64decode(plan["picture"])
seen = {"broken": {}}


def client_of(base, key=None):
    os.environ["COMFY_BASE_URL"] = base
    return Comfy(api_key=key)


def part(does):
    """Runs a part of the plan. One that breaks leaves the others to be seen."""
    try:
        seen[does.__name__] = does()
    except Exception:
        seen["broken"][does.__name__] = traceback.format_exc()[-1500:]


def refused(call):
    try:
        return {"done": str(call())}
    except (ComfyError, ApiError) as error:
        return {
            "class": type(error).__name__,
            "code": error.code,
            "status": error.http_status,
            "message": str(error),
            "details": error.details,
            "retry_after": error.retry_after,
        }


def failed(job):
    """How the client tells that a job did not succeed."""
    try:
        return {"done": job.result().status}
    except ComfyError as error:
        told = getattr(error, "error", None)
        of_node = {name: getattr(told, name) for name in ("message", "node_id", "class_type")} if told else None
        return {"class": type(error).__name__, "code": error.code, "status": job.status, "error": of_node}


client = client_of(plan["base"])


def workflow(graph):
    return client.workflows.from_json(copy.deepcopy(graph))


def loads(image):
    """A workflow that loads a picture and saves it."""
    workflow_of_it = workflow(plan["load"])
    workflow_of_it.set_input("1", "image", image)
    return workflow_of_it


def output(one):
    """An output, and its bytes in each way that there is to get them."""
    whole = one.to_bytes()
    stream = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        in_file = one.to_file(os.path.join(folder, one.name)).read_bytes()
    return {
        "id": one.id,
        "node": one.node_id,
        "name": one.name,
        "type": one.type,
        "content_type": one.content_type,
        "job": one.job_id,
        "size_is_right": one.size_bytes == len(whole) == one.to_stream(stream),
        "ways_agree": whole == in_file == stream.getvalue(),
        "start": one.to_bytes(range=(0, 7)).hex(),
        "rest_is_right": one.to_bytes(range=(8, len(whole) - 1)) == whole[8:],
        "hash": "blake3:" + blake3(whole).hexdigest(),
        "content": base64.b64encode(whole).decode(),
    }


def heard(job):
    """What a stream of events brings, to its end."""
    events = list(job.events())
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


def essentials(client, graph):
    """What works on each address and with each key."""
    asset = client.assets.from_bytes(picture, filename="essential.png")
    job = client.run(loads(asset))
    heard_job = client.submit(client.workflows.from_json(copy.deepcopy(graph)))
    events = heard(heard_job)
    return {
        "output": output(job.outputs[0]),
        "events": events,
        "listed": [summary.id in (job.id, heard_job.id) for summary in client.list_jobs(limit=2)],
        "status": heard_job.refresh().status,
        "url": client.assets.get(asset.id).get_download_url().url,
    }


def assets():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ein Füchslein.png")
        with open(path, "wb") as file:
            file.write(picture)
        from_path = client.assets.from_file(path)
        from_path.commit()
    again = client.assets.from_bytes(picture, filename="again.png")
    again.commit()
    large = os.urandom(3_000_000)
    streamed = client.assets.from_stream(io.BytesIO(large), filename="noise.bin")
    streamed.commit()
    url = streamed.get_download_url()
    with urllib.request.urlopen(url.url) as answer:
        fetched = answer.read()
    back = client.assets.get(from_path.id)
    return {
        "hash": from_path.hash,
        "hash_is_right": from_path.hash == "blake3:" + blake3(picture).hexdigest(),
        "created_new": [from_path.created_new, again.created_new, streamed.created_new],
        "ids_differ": len({from_path.id, again.id, streamed.id}) == 3,
        "ids": [from_path.id, again.id, streamed.id],
        "names": [back.file_path, client.assets.get(again.id).file_path],
        "same_hash": back.hash == again.hash == from_path.hash,
        "job": back.job_id,
        "url": url.url,
        "url_expires": url.expires_at,
        "fetched": fetched == large,
    }


def runs():
    first = client.run(loads(client.assets.from_bytes(picture, filename="fox.png")))
    of_node = first.get_outputs("2")
    made = of_node[0]
    # What a job made is an asset like one that was uploaded.
    second = client.run(loads(client.assets.get(made.id)), timeout=60)
    third = client.submit(loads({"__type": "core/ASSET", "info": {"id": made.id}})).result()
    got = client.jobs.get(first.id)
    return {
        "status": [first.status, second.status, third.status, got.status],
        "outputs": [output(job.outputs[0]) for job in (first, second, third)],
        "counts": [len(first.outputs), len(of_node), len(first.get_outputs("none"))],
        "asset_of_output": [client.assets.get(made.id).hash, client.assets.get(made.id).job_id == first.id],
        "no_labels": got.metadata,
        "error": got.error,
        "deleted": refused(lambda: client.assets.delete(made.id)),
    }


def texts():
    job = client.run(workflow(plan["text"]))
    return [[one.type, one.node_id, one.content_type, one.to_bytes().decode()] for one in job.outputs]


def workflow_back():
    job = client.run(workflow(plan["quick"][0]))
    back = job.get_workflow()
    with_asset = client.submit(loads(client.assets.from_bytes(picture, filename="back.png")))
    return {"format": back.format, "same": back.graph == plan["quick"][0], "asset": with_asset.get_workflow().graph}


def events():
    job = client.submit(workflow(plan["steps"]))
    with ThreadPoolExecutor(2) as pool:
        streams = list(pool.map(heard, [job, client.jobs.get(job.id)]))
    job.refresh()
    return {
        "streams": streams,
        "outputs": [one.id for one in job.outputs],
        "status": job.status,
        "late": heard(job),
    }


def cancels():
    running = client.submit(workflow(plan["slow"]))
    waiting = client.submit(workflow(plan["quick"][1]))
    while running.refresh().status == "queued":
        time.sleep(0.05)
    before = [running.status, waiting.refresh().status]
    seconds = time.monotonic()
    waiting.cancel()
    asked = [waiting.status, running.cancel().status]
    ended = [failed(waiting), failed(running)]
    return {
        "before": before,
        "asked": asked,
        "ended": ended,
        "seconds": time.monotonic() - seconds,
        "again": [running.cancel().status, waiting.cancel().status],
        "events": [heard(waiting)["last"], heard(running)["last"]],
        "outputs": [len(running.outputs), len(waiting.outputs)],
    }


def fails():
    job = client.submit(workflow(plan["fails"]))
    with_events = heard(job)
    return {"told": failed(job), "events": with_events["last"], "run": refused(lambda: client.run(workflow(plan["fails"])))}


def lists():
    labels = [{"client": "acme", "run": "7"}, {"client": "acme", "run": "8"}, {"client": "Öl [x]&=#", "run": "7"}]
    labelled = [
        client.submit(workflow(graph), metadata=metadata)
        for graph, metadata in zip(plan["quick"][2:5], labels, strict=True)
    ]
    before = {summary.id for summary in client.list_jobs()}
    walked = []
    for summary in client.list_jobs(limit=2):
        walked.append(summary)
        # The pages that come are those of the list as it was.
        if len(walked) in (2, 4):
            client.submit(workflow(plan["quick"][5 + len(walked) // 2]))
    ids = [summary.id for summary in walked]
    for job in labelled:
        job.result()

    def by(**metadata):
        return [labelled_ids.index(summary.id) for summary in client.list_jobs(metadata=metadata, limit=1)]

    labelled_ids = [job.id for job in labelled]
    ended = next(summary for summary in client.list_jobs() if summary.id == labelled[0].id)
    return {
        "count": len(before),
        "each_once": len(set(ids)) == len(ids),
        "all_there": before <= set(ids),
        "newest_first": [summary.create_time for summary in walked]
        == sorted((summary.create_time for summary in walked), reverse=True),
        "times": ended.update_time >= ended.create_time,
        "status": ended.status,
        "labels": [job.metadata for job in labelled] == labels,
        "labels_got": client.jobs.get(labelled[2].id).metadata == labels[2],
        "labels_listed": ended.metadata == labels[0],
        "by": [by(client="acme"), by(client="acme", run="7"), by(run="7"), by(client="Öl [x]&=#"), by(client="none")],
        "refused": {
            "number": refused(lambda: client.submit(workflow(plan["quick"][0]), metadata={"run": 7})),
            "many": refused(
                lambda: client.submit(workflow(plan["quick"][0]), metadata={f"k{n}": "v" for n in range(17)})
            ),
            "control": refused(lambda: client.submit(workflow(plan["quick"][0]), metadata={"run": "a\x00b"})),
            "filters": refused(lambda: list(client.list_jobs(metadata={f"k{n}": "v" for n in range(4)}))),
            "limit": refused(lambda: list(client.list_jobs(limit=0))),
            "cursor": refused(lambda: client._low.list_jobs(cursor="nowhere")),
        },
    }


def keys():
    def submit(graph, key):
        return client.submit(workflow(graph), idempotency_key=key)

    one, freed, raced = (str(uuid.uuid4()) for _ in range(3))
    submit(plan["quick"][8], one)
    again = [refused(lambda: submit(plan["quick"][8], one)), refused(lambda: submit(plan["quick"][9], one))]
    refusals = [
        refused(lambda: submit(plan["wrong"], freed)),
        refused(
            lambda: client.submit(
                loads({"__type": "core/ASSET", "info": {"id": str(uuid.uuid4())}}), idempotency_key=freed
            )
        ),
    ]
    after_refusals = submit(plan["quick"][9], freed).id
    with ThreadPoolExecutor(5) as pool:
        race = list(pool.map(lambda _: refused(lambda: submit(plan["quick"][10], raced)), range(5)))
    return {"again": again, "refusals": refusals, "after": after_refusals, "race": race}


def errors():
    def submit(graph):
        return refused(lambda: client.submit(workflow(graph)))

    low = ComfyLow(plan["base"])
    ui = {"nodes": [], "links": []}
    missing = str(uuid.uuid4())
    told = {
        "class": submit(plan["wrong"]),
        "input": submit({"2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}),
        "value": submit(plan["bad_value"]),
        "no_output": submit({"1": plan["quick"][0]["1"]}),
        "empty": submit({}),
        "ui": submit(ui),
        # The SDK keeps this one from being sent.
        "ui_here": submit({**ui, "last_node_id": 1}),
        "ui_sent": refused(lambda: low.post_jobs({**ui, "last_node_id": 1})),
        "asset": refused(lambda: client.submit(loads({"__type": "core/ASSET", "info": {"id": missing}}))),
        "no_id": refused(
            lambda: client.submit(
                loads({"__type": "core/ASSET", "info": {"hash": "blake3:" + blake3(picture).hexdigest()}})
            )
        ),
        "no_info": refused(lambda: client.submit(loads({"__type": "core/ASSET"}))),
        "no_job": refused(lambda: client.jobs.get(missing)),
        "no_asset": refused(lambda: client.assets.get(missing)),
        "no_blob": refused(lambda: low.asset_from_hash("blake3:" + "0" * 64)),
        "hash": refused(
            lambda: low.post_assets(
                io.BytesIO(b"other bytes"), "text/plain", "o.txt", expected_hash="blake3:" + "0" * 64
            )
        ),
        "hash_not_kept": low.head_asset_by_hash("blake3:" + blake3(b"other bytes").hexdigest()),
    }
    told["missing"] = missing
    low.close()
    return told


def deletes():
    content = b"bytes that are deleted"
    one, other = (client.assets.from_bytes(content, filename=name) for name in ("one.txt", "other.txt"))
    one.commit()
    other.commit()
    first = one.id
    one.delete()
    gone = [refused(lambda: client.assets.delete(first)), refused(lambda: client.assets.get(first))]
    used = refused(lambda: client.submit(loads({"__type": "core/ASSET", "info": {"id": first}})))
    left = client.assets.get(other.id).file_path
    other.delete()
    return {
        "gone": gone,
        "used": used,
        "left": left,
        "bytes": client._low.head_asset_by_hash("blake3:" + blake3(content).hexdigest()),
    }


def org_key():
    job = client.submit(workflow(plan["quick"][11]), api_key=plan["org_key"])
    job.result()
    return {"status": job.status, "graph": job.get_workflow().graph == plan["quick"][11]}


def queue_full():
    full = client_of(plan["full"])
    first = full.submit(workflow(plan["steps"]))
    low = ComfyLow(plan["full"])
    told = refused(lambda: low.post_jobs(plan["quick"][0]))
    low.close()
    # It waits as long as it is told, and sends the same again.
    second = full.submit(workflow(plan["quick"][0]), idempotency_key=plan["waiting_key"])
    return {"told": told, "waited": second.result().status, "first": first.refresh().status}


def edit_port():
    return essentials(client_of(plan["edit"]), plan["quick"][12])


def locked():
    told = {}
    for name, key in (("none", None), ("wrong", "not-" + plan["key"])):
        stranger = client_of(plan["locked"], key)
        told[name] = [
            refused(lambda: stranger.submit(workflow(plan["quick"][0]))),
            refused(lambda: stranger.assets.from_bytes(b"x").commit()),
            refused(lambda: list(stranger.list_jobs())),
            refused(lambda: stranger.jobs.get(str(uuid.uuid4()))),
        ]
    told["right"] = essentials(client_of(plan["locked"], plan["key"]), plan["quick"][12])
    return told


for does in (assets, runs, texts, workflow_back, events, cancels, fails, lists, keys, errors, deletes, org_key):
    part(does)
for does in (queue_full, edit_port, locked):
    if plan[{"queue_full": "full", "edit_port": "edit", "locked": "locked"}[does.__name__]]:
        part(does)
print(json.dumps(seen, default=str))
