"""Logs what the plan lists with RunPod's own logger; prints the lines that came out of it as a JSON list."""

import contextlib
import io
import json
import os
import sys

os.environ["RUNPOD_ENDPOINT_ID"] = "endpoint"
os.environ["RUNPOD_LOG_LEVEL"] = "TRACE"

from runpod.serverless.modules.rp_logger import RunPodLogger

plan = json.load(sys.stdin)
out = io.StringIO()
with contextlib.redirect_stdout(out):
    for entry in plan:
        RunPodLogger().log(entry["message"], entry["level"], entry["job"])
print(json.dumps(out.getvalue().splitlines()))
