# Becomes ComfyUI, and leaves a watchdog in its process group. argv: the program to become, and its arguments.
#
# Standard input is a pipe that the worker holds open and never writes to. When the worker is gone, however it went, the
# kernel closes it; the watchdog reads the end and kills the group. A process of its own can do so even while ComfyUI is
# deep in native code with Python's lock held.
#
# The variable tells the start hook that it is in this process, and not in one that ComfyUI has started.
import os
import signal
import sys

if os.fork() == 0:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # It must not hold ComfyUI's output open.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    while os.read(0, 64):
        pass
    os.killpg(0, signal.SIGKILL)

os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
# A shell that starts the worker with `&` has it ignore SIGINT. Inherited, that would keep ComfyUI from stopping.
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.environ["QWEN_IMAGE_WORKER_COMFYUI"] = str(os.getpid())
os.execvp(sys.argv[1], sys.argv[1:])
