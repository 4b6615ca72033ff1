"""What ComfyUI's process has in it before anything of ComfyUI runs. Written by qwen-image-worker.

Four things, each by itself; one that fails is told in a line and keeps nothing else from its work:

- psutil's virtual_memory() knows the memory limit of the container. ComfyUI before 0.35 sizes what it keeps by the
  memory of the whole machine otherwise, and is killed for it.
- The import of each pack of custom nodes is written down, its begin too, so that the worker knows which one was at work
  when the process died. A pack that ends the process by an exception fails alone, and one that the worker has seen kill
  a process is not imported.
- Prompts of ComfyUI's own API have the workflow written into what they save, although ComfyUI was started without
  (--disable-metadata): its page reads that again.
- Output files of a ComfyUI that shares its output folder with others have names of their own. ComfyUI counts on from the
  files that are there: two that count at the same moment would write the same file.
"""
import functools
import importlib.machinery
import importlib.util
import json
import os
import sys
import time

# The longest text of an exception that is written down.
LONGEST_ERROR = 2000


def begin(folder):
    with open(os.path.join(folder, "settings.json"), encoding="utf-8") as file:
        settings = json.load(file)
    for part in (watch_imports, limit_memory, keep_metadata, mark_names):
        try:
            part(folder, settings)
        except Exception as error:
            sys.stderr.write("[WARNING] qwen-image-worker: %s failed: %r\n" % (part.__name__, error))


# Memory.

def limit_memory(folder, settings):
    groups = settings["memory"]
    if not groups:
        return
    try:
        import psutil
    except ImportError:
        return
    real = psutil.virtual_memory

    @functools.wraps(real)
    def virtual_memory():
        memory = real()
        try:
            return clamped(memory, groups)
        except Exception:
            return memory

    psutil.virtual_memory = virtual_memory


def clamped(memory, groups):
    """psutil's figures, no larger than the groups allow. Swap is left alone: nothing is sized by it."""
    total = min([memory.total] + [group["limit"] for group in groups])
    available = min([memory.available] + [max(0, group["limit"] - in_use(group)) for group in groups])
    figures = memory._asdict()
    for name, value in figures.items():
        if name not in ("percent", "total", "available"):
            figures[name] = min(value, total)
    figures["total"] = total
    figures["available"] = available
    figures["used"] = total - available
    figures["free"] = min(figures["free"], available)
    figures["percent"] = round((total - available) * 100 / total, 1) if total else 0.0
    return type(memory)(**figures)


def in_use(group):
    """What a group holds and cannot give back at once: without what the kernel keeps of files, which it drops first."""
    try:
        with open(group["usage"]) as file:
            usage = int(file.read())
        with open(group["stat"]) as file:
            stat = dict(line.split(None, 1) for line in file if " " in line)
        return max(0, usage - sum(int(stat.get(name, 0)) for name in group["cache"]))
    except (OSError, ValueError):
        return 0


# Imports.

def watch_imports(folder, settings):
    record = os.path.join(folder, "imports.jsonl")
    # Of a start before this one, in the same process or another.
    open(record, "w").close()
    left_out = settings["left_out"]
    real = importlib.util.spec_from_file_location

    # ComfyUI gets the spec of each pack here; an `import` statement does not come by.
    @functools.wraps(real)
    def spec_from_file_location(*args, **kwargs):
        spec = real(*args, **kwargs)
        try:
            if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
                pack = pack_of(spec.loader.path)
                if pack is not None:
                    spec.loader = PackLoader(spec.loader.name, spec.loader.path, pack, record, left_out.get(pack))
        except Exception as error:
            sys.stderr.write("[WARNING] qwen-image-worker: an import is not recorded: %r\n" % (error,))
        return spec

    importlib.util.spec_from_file_location = spec_from_file_location


def pack_of(path):
    """The folder or file directly in a folder of custom nodes that a module is the begin of."""
    # Halfway through its own import it has no functions yet.
    get = getattr(sys.modules.get("folder_paths"), "get_folder_paths", None)
    if get is None:
        return None
    roots = [os.path.abspath(root) for root in get("custom_nodes")]
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    if parent in roots:
        return path
    if name in ("__init__.py", "prestartup_script.py") and os.path.dirname(parent) in roots:
        return parent
    return None


class PackLoader(importlib.machinery.SourceFileLoader):
    """Loads a pack as ever, and writes down what comes of it."""

    def __init__(self, name, path, pack, record, refusal):
        super().__init__(name, path)
        self.pack = pack
        self.record = record
        self.refusal = refusal

    def exec_module(self, module):
        self.write("running")
        begun = time.perf_counter()
        try:
            if self.refusal is not None:
                raise ImportError(self.refusal)
            super().exec_module(module)
        except (KeyboardInterrupt, GeneratorExit):
            # The worker stops ComfyUI.
            raise
        except Exception as error:
            self.failed(begun, error)
            raise
        except BaseException as error:
            # ComfyUI catches exceptions of its packs; this one would end it.
            if isinstance(error, SystemExit):
                text = "it called sys.exit(%s), which would have ended ComfyUI" % (
                    "" if error.code is None else repr(error.code))
            else:
                text = "it raised %s: %s" % (type(error).__name__, error)
            failure = ImportError(text)
            self.failed(begun, failure)
            raise failure from error
        self.write("done", seconds=round(time.perf_counter() - begun, 3))

    def failed(self, begun, error):
        try:
            text = "%s: %s" % (type(error).__name__, error)
        except Exception:
            text = type(error).__name__
        self.write("failed", seconds=round(time.perf_counter() - begun, 3), error=text[:LONGEST_ERROR])

    def write(self, state, **more):
        line = dict(folder=self.pack, file=os.path.basename(self.path), state=state, **more)
        try:
            # Opened each time: a pack may close what it does not know.
            with open(self.record, "ab", buffering=0) as file:
                file.write((json.dumps(line) + "\n").encode())
        except (OSError, ValueError):
            pass


# Metadata.

def keep_metadata(folder, settings):
    # The user may want none at all.
    if settings["metadata"]:
        sys.meta_path.insert(0, AfterImport("execution", wrap_executor, "pictures have no metadata"))


class AfterImport:
    """Does something once a module of this name has been imported."""

    def __init__(self, name, do, lost):
        self.name = name
        self.do = do
        self.lost = lost

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        # Whatever comes of it, the others find it as ever.
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
        spec = importlib.util.find_spec(name)
        if spec is not None:
            try:
                self.watch(spec)
            except Exception as error:
                self.warn(error)
        return spec

    def watch(self, spec):
        real = spec.loader.exec_module

        def exec_module(module):
            real(module)
            try:
                self.do(module)
            except Exception as error:
                self.warn(error)

        spec.loader.exec_module = exec_module

    def warn(self, error):
        sys.stderr.write("[WARNING] qwen-image-worker: %s: %r\n" % (self.lost, error))


def wrap_executor(module):
    real = module.PromptExecutor.execute

    # (prompt, prompt_id, extra_data, execute_outputs); one prompt runs at a time.
    @functools.wraps(real)
    def execute(self, *args, **kwargs):
        extra_data = kwargs.get("extra_data", args[2] if len(args) > 2 else None)
        options = options_of(extra_data)
        if options is None:
            return real(self, *args, **kwargs)
        before = options.disable_metadata
        options.disable_metadata = False
        try:
            return real(self, *args, **kwargs)
        finally:
            options.disable_metadata = before

    module.PromptExecutor.execute = execute


def options_of(extra_data):
    """ComfyUI's arguments, where the prompt is one that is to have metadata."""
    try:
        if extra_data["qwen_image_worker"]["metadata"] is True:
            options = sys.modules["comfy.cli_args"].args
            options.disable_metadata
            return options
    except Exception:
        pass
    return None


# Names.

def mark_names(folder, settings):
    mark = settings["mark"]
    if mark:
        lost = "output files may have the names of another ComfyUI's"
        sys.meta_path.insert(0, AfterImport("folder_paths", lambda module: wrap_names(module, mark), lost))


def wrap_names(module, mark):
    real = module.get_save_image_path

    # (filename_prefix, output_dir, image_width, image_height)
    @functools.wraps(real)
    def get_save_image_path(filename_prefix, *args, **kwargs):
        return real("%s_%s" % (filename_prefix, mark), *args, **kwargs)

    module.get_save_image_path = get_save_image_path
