# Stands in for ComfyUI's main.py in tests: does what plan.py beside it says, which may call serve().
import http.server
import json
import os
import signal
import subprocess
import sys
import time

with open("starts", "a") as file:
    file.write("x")
start = os.path.getsize("starts")
with open("pid", "w") as file:
    file.write(str(os.getpid()))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/exit/"):
            os._exit(int(self.path.rpartition("/")[2]))
        body = json.dumps({"system": {"argv": sys.argv}, "path0": sys.path[0], "cwd": os.getcwd(), "name": __name__,
                           "stdin": os.read(0, 1).decode(), "environment": dict(os.environ)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def serve():
    port = int(sys.argv[sys.argv.index("--port") + 1])
    try:
        http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
    except KeyboardInterrupt:
        print("Stopped server", flush=True)


def spawn_grandchild():
    child = subprocess.Popen(["sleep", "600"])
    with open("grandchild", "w") as file:
        file.write(str(child.pid))


exec(open("plan.py").read())
