"""comfyui-utils: reads a plan from standard input, prints what it saw."""

import asyncio
import hashlib
import json
import sys

from comfyui_utils.comfy import Callbacks, ComfyAPI

plan = json.load(sys.stdin)
api = ComfyAPI(plan["base"].split("//")[1])


class Seen(Callbacks):
    def __init__(self):
        self.positions, self.progress, self.outputs, self.cached = [], [], None, None

    async def queue_position(self, position):
        self.positions.append(position)

    async def in_progress(self, node_id, progress, total):
        self.progress.append([node_id, progress, total])

    async def completed(self, outputs, cached):
        self.outputs, self.cached = outputs, cached


async def run(graph):
    seen = Seen()
    await api.submit(graph, seen)
    digest = []

    async def read(file):
        digest.append(hashlib.sha256(file.getvalue()).hexdigest())

    await api.fetch(seen.outputs["images"][0], read)
    return {**vars(seen), "digest": digest[0]}


async def main():
    seen = {"run": await run(plan["steps"]), "again": await run(plan["steps"])}
    try:
        await run(plan["wrong"])
    except ValueError as error:
        seen["refused"] = str(error)
    return seen


print(json.dumps(asyncio.run(main())))
