"""Starts the worker, for whoever expects a worker to be Python.

RunPod's Hub asks that a repository has a handler.py, and some run `python3 -u /handler.py` as a container's command. A
usual handler.py ends with `runpod.serverless.start({"handler": handler})`. This worker needs no handler: the program
qwen-image-worker speaks with RunPod's queue itself. So this file becomes that program, with the same arguments,
environment and process id. The image's own entry point, start.sh, does not come by here.
"""

import os
import sys

PROGRAM = "qwen-image-worker"

if __name__ == "__main__":
    try:
        os.execvp(PROGRAM, [PROGRAM, *sys.argv[1:]])
    except FileNotFoundError:
        sys.exit(f"error: {PROGRAM} is not on the PATH; the image has it there, and in a checkout ./start.sh builds it")
