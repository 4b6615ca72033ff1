"""What the benchmark compares with: a worker made of RunPod's Python package, around the same ComfyUI.

The handler does what that of worker-comfyui 5 does for a graph without input images, with the same libraries: it looks
whether ComfyUI answers, opens a websocket, submits the graph, waits for its end, and fetches each picture.
"""

import base64
import json
import os
import uuid

import requests
import runpod
import websocket

COMFY_HOST = os.environ["COMFYUI_URL"].removeprefix("http://").rstrip("/")


def fetch(path, **query):
    response = requests.get(f"http://{COMFY_HOST}{path}", params=query, timeout=60)
    response.raise_for_status()
    return response


def handler(job):
    fetch("/")
    client_id = str(uuid.uuid4())
    socket = websocket.WebSocket()
    socket.connect(f"ws://{COMFY_HOST}/ws?clientId={client_id}", timeout=10)
    try:
        body = json.dumps({"prompt": job["input"]["workflow"], "client_id": client_id})
        headers = {"Content-Type": "application/json"}
        answer = requests.post(f"http://{COMFY_HOST}/prompt", data=body, headers=headers, timeout=30)
        answer.raise_for_status()
        prompt_id = answer.json()["prompt_id"]
        while True:
            message = socket.recv()
            if isinstance(message, str):
                message = json.loads(message)
                data = message.get("data", {})
                if message["type"] == "executing" and data["node"] is None and data["prompt_id"] == prompt_id:
                    break
        outputs = fetch(f"/history/{prompt_id}").json()[prompt_id]["outputs"]
    finally:
        socket.close()
    images = []
    for output in outputs.values():
        for image in output.get("images", []):
            content = fetch("/view", **image).content
            data = base64.b64encode(content).decode("utf-8")
            images.append({"filename": image["filename"], "type": "base64", "data": data})
    return {"images": images}


runpod.serverless.start({"handler": handler})
