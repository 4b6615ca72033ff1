# Written by qwen-image-worker. Python runs this before ComfyUI's main.py, since the worker has put this folder into
# PYTHONPATH. In ComfyUI's own process it takes in what lies beside it; in processes that ComfyUI starts it does nothing.
# The environment's own sitecustomize, which this one hides, runs afterwards.
import os
import sys


def _leave_path(folder):
    # main.py is to find what it would find without us.
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]


def _take_in(folder):
    # The number stays the same when ComfyUI-Manager starts ComfyUI again by exec; that start gets it all too.
    if os.environ.get("QWEN_IMAGE_WORKER_COMFYUI") != str(os.getpid()):
        return
    try:
        import qwen_image_worker_start
        qwen_image_worker_start.begin(folder)
    except BaseException as error:
        sys.stderr.write("[WARNING] qwen-image-worker: the start hook failed: %r\n" % (error,))


def _other():
    from importlib.machinery import PathFinder
    spec = PathFinder.find_spec("sitecustomize")
    if spec is None or spec.loader is None:
        return
    from importlib.util import module_from_spec
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_folder = os.path.dirname(os.path.abspath(__file__))
_take_in(_folder)
_leave_path(_folder)
_other()
