"""A Space of the form of Qwen/Qwen-Image, which paints pictures of one colour; some prompts have it do something else.

The first line that it prints says where it is. The second server tells what was asked for.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gradio as gr
from PIL import Image

SIZES = {
    "1:1": (1328, 1328),
    "16:9": (1664, 928),
    "9:16": (928, 1664),
    "4:3": (1472, 1140),
    "3:4": (1140, 1472),
    "3:2": (1584, 1056),
    "2:3": (1056, 1584),
}
QUOTA = "You have exceeded your GPU quota (120s requested vs. 47s left). Try again in 0:01:00"

asked = []
ended = []


def infer(
    prompt,
    page,
    seed=42,
    randomize_seed=False,
    aspect_ratio="16:9",
    guidance_scale=4,
    num_inference_steps=50,
    prompt_enhance=True,
    progress=gr.Progress(),
):
    asked.append([prompt, page, seed, randomize_seed, aspect_ratio, guidance_scale, num_inference_steps, prompt_enhance])
    if "quota" in prompt:
        raise gr.Error(QUOTA, title="ZeroGPU quota exceeded")
    if "busy" in prompt:
        raise gr.Error("No GPU is currently available for you after 60s")
    if "aborted" in prompt:
        raise gr.Error("GPU task aborted")
    if "masked" in prompt:
        raise ValueError("nobody sees this")
    if "refused" in prompt:
        raise gr.Error("No such foxes are drawn here")
    if "slow" in prompt:
        for step in range(100):
            progress((step, 100), unit="steps")
            time.sleep(0.1)
    ended.append(prompt)
    return Image.new("RGB", SIZES[aspect_ratio], (int(seed) % 256, 80, 160)), seed


with gr.Blocks() as demo:
    prompt = gr.Textbox(label="Prompt")
    page = gr.State(None)
    result = gr.Image(label="Result", format="png")
    seed = gr.Slider(label="Seed", minimum=0, maximum=2**31 - 1, step=1, value=0)
    randomize_seed = gr.Checkbox(label="Randomize seed", value=True)
    aspect_ratio = gr.Radio(label="Aspect ratio", choices=list(SIZES), value="16:9")
    guidance_scale = gr.Slider(label="Guidance scale", minimum=0.0, maximum=20.0, step=0.1, value=4.0)
    num_inference_steps = gr.Slider(label="Number of inference steps", minimum=1, maximum=100, step=1, value=50)
    prompt_enhance = gr.Checkbox(label="Prompt Enhance", value=True)
    gr.on(
        triggers=[prompt.submit],
        fn=infer,
        inputs=[
            prompt,
            page,
            seed,
            randomize_seed,
            aspect_ratio,
            guidance_scale,
            num_inference_steps,
            prompt_enhance,
        ],
        outputs=[result, seed],
        api_name="infer",
    )


class Told(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"asked": asked, "ended": ended}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


told = ThreadingHTTPServer(("127.0.0.1", 0), Told)
threading.Thread(target=told.serve_forever, daemon=True).start()
_, url, _ = demo.queue(default_concurrency_limit=1).launch(
    server_name="127.0.0.1", server_port=None, prevent_thread_lock=True, quiet=True, share=False
)
print(json.dumps({"url": url.rstrip("/"), "told": f"http://127.0.0.1:{told.server_port}/"}), flush=True)
threading.Event().wait()
