"""Times the worker on a GPU, with Qwen-Image at its real sizes and random weights. Takes five minutes.

usage: COMFYUI_DIR=… COMFYUI_PYTHON=… python3 benches/gpu/run.py MODELS_DIR

COMFYUI_DIR and COMFYUI_PYTHON are the worker's own variables. The weights (29 GB) are written to MODELS_DIR, which must
hold nothing else, unless they are there. WORKER names another binary than target/release/qwen-image-worker.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PORT = int(os.environ.get("PORT", "8188"))
# ComfyUI collects garbage after a job where the last time is ten seconds ago.
QUIET_S = 10.5
ALONE, IN_A_ROW = 4, 8


def ask(method, path, body=None):
    """The status and the JSON of an answer; waits as long as a job may run."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            status, content = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    return status, json.loads(content or b"null")


class Seeds:
    """No two jobs have one, so that nothing but the models comes from ComfyUI's cache."""

    last = 0

    @classmethod
    def next(cls):
        cls.last += 1
        return cls.last


def job(**more):
    return {"input": {"prompt": "a red fox in the snow", "seed": Seeds.next(), **more}}


def timed(body):
    """The seconds of a request of `/runsync`."""
    begun = time.perf_counter()
    status, answer = ask("POST", "/runsync", body)
    if status != 200:
        sys.exit(f"a job failed: {answer}")
    return time.perf_counter() - begun


def row(name, value):
    print(f"| {name} | {value} |", flush=True)


def gpu():
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


def measure(name, worker, environment, everything):
    print(f"\n{name}\n\n| figure | measured |\n| --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as data, open(f"{data}/log", "wb") as log:
        begun = time.perf_counter()
        process = subprocess.Popen([worker, "serve"], stdout=log, stderr=log, env={**environment, "DATA_DIR": data})
        try:
            while True:
                if process.poll() is not None:
                    sys.exit(f"the worker ended: {Path(log.name).read_text(errors='replace')[-3000:]}")
                try:
                    if ask("GET", "/ping")[0] == 200:
                        break
                except OSError:
                    pass
                time.sleep(0.05)
            row("start until jobs can run", f"{time.perf_counter() - begun:.1f} s")
            row("first job, which loads the models", f"{timed(job()):.2f} s")
            alone = []
            for _ in range(ALONE):
                time.sleep(QUIET_S)
                alone.append(timed(job()))
            row(f"one job after a pause, middle of {ALONE}", f"{statistics.median(alone):.2f} s")
            begun = time.perf_counter()
            ids = [ask("POST", "/run", job())[1]["id"] for _ in range(IN_A_ROW)]
            for each in ids:
                ask("GET", f"/status-sync/{each}")
            row(f"{IN_A_ROW} jobs in a row, for each", f"{(time.perf_counter() - begun) / IN_A_ROW:.2f} s")
            if everything:
                rest()
        finally:
            process.terminate()
            process.wait()


def rest():
    """What is no matter of seconds: estimates, a cancel, memory that does not suffice."""
    running = ask("POST", "/run", job(template="qwen-image", steps=200))[1]["id"]
    while True:
        progress = ask("GET", f"/status/{running}")[1].get("progress", {})
        if progress.get("step", 0) >= 4:
            break
        time.sleep(0.02)
    row("200 steps, after step 4: said to need", f"{progress['eta_s']:.0f} s")
    row("the same at the pace of the seconds before", f"{pace(running) * 196:.0f} s")
    ask("POST", f"/cancel/{running}")
    row("after its cancel, the next job, which puts the LoRA on again", f"{timed(job()):.2f} s")
    graph = json.loads((ROOT / "workflows/qwen-image-lightning.json").read_text())
    for node in graph.values():
        if node["class_type"] == "EmptySD3LatentImage":
            node["inputs"]["batch_size"] = 4096
    status, answer = ask("POST", "/runsync", {"input": {"workflow": graph}})
    row("4,096 pictures at once", f"{status}: {(answer.get('error') or answer['status']).splitlines()[0]}")
    row("the job after that", f"{timed(job()):.2f} s")


def pace(running):
    """The seconds of a step, over some of them."""
    def step():
        return ask("GET", f"/status/{running}")[1]["progress"]["step"]

    begun, first = time.perf_counter(), step()
    while (now := step()) < first + 4:
        time.sleep(0.02)
    return (time.perf_counter() - begun) / (now - first)


def main():
    if len(sys.argv) != 2 or "COMFYUI_DIR" not in os.environ:
        sys.exit(__doc__)
    models, comfyui = Path(sys.argv[1]).resolve(), os.environ["COMFYUI_DIR"]
    python = os.environ.get("COMFYUI_PYTHON") or shutil.which("python3")
    written = models / "written"
    if not written.exists():
        subprocess.run([python, HERE / "weights.py", models], cwd=comfyui, check=True)
        written.touch()
    worker = os.environ.get("WORKER", ROOT / "target/release/qwen-image-worker")
    arguments = os.environ.get("COMFYUI_ARGS", "")
    environment = {
        **os.environ, "PORT": str(PORT), "EDIT_PORT": "none", "MODEL_DIR": str(models), "MODEL_SET": "none",
        "MODEL_ON_DEMAND": "false", "DEMO_WEIGHTS": "false", "COMFYUI_PYTHON": python,
    }
    print(gpu())
    measure("Qwen-Image with Lightning, 8 steps, 1328x1328", worker, environment, everything=True)
    without = {**environment, "COMFYUI_ARGS": f"{arguments} --disable-all-custom-nodes"}
    measure("The same, and Python's collector looks at everything after a job (no custom nodes)", worker, without,
            everything=False)


main()
