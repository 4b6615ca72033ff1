"""A ComfyUI custom-node file for the end-to-end tests: nodes that are slow, fail or die on purpose.

No node needs a model. Each takes an optional IMAGE, so that it can stand behind another node, and gives an IMAGE,
so that it can stand before SaveImage; ShowText, ShowWholeText, ShowFrozen, ShowNan, Nothing, SaveFile, NameFile and TellUpload
are outputs themselves.
"""

import ctypes
import gc
import os
import sys
import time

import torch
from PIL import Image

import comfy.model_management
import comfy.utils
import folder_paths

MAX_SEED = 2**63 - 1


def grey(seed=0):
    """One 64x64 picture whose brightness comes from the seed."""
    return torch.full((1, 64, 64, 3), (seed % 256) / 255)


class TestNode:
    """What the nodes share; INPUTS are the required ones."""

    INPUTS = {}
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "worker_test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": cls.INPUTS, "optional": {"image": ("IMAGE",)}}


class SlowProgress(TestNode):
    """Sleeps step by step, with progress and, when asked, a preview; can be interrupted between the steps."""

    INPUTS = {
        "steps": ("INT", {"default": 4, "min": 1, "max": 100_000}),
        "ms_per_step": ("INT", {"default": 100, "min": 0, "max": 600_000}),
        "preview": ("BOOLEAN", {"default": True}),
        "seed": ("INT", {"default": 0, "min": 0, "max": MAX_SEED}),
    }

    def run(self, steps, ms_per_step, preview, seed, image=None):
        bar = comfy.utils.ProgressBar(steps)
        for done in range(1, steps + 1):
            comfy.model_management.throw_exception_if_processing_interrupted()
            time.sleep(ms_per_step / 1000)
            picture = None
            if preview:
                picture = ("JPEG", Image.new("RGB", (32, 24), (255 * done // steps, 0, 0)), 512)
            bar.update_absolute(done, steps, picture)
        return (grey(seed) if image is None else image,)


class SlowSilent(TestNode):
    """Sleeps without a word and looks at no interrupt."""

    INPUTS = {
        "ms": ("INT", {"default": 1000, "min": 0, "max": 3_600_000}),
        "seed": ("INT", {"default": 0, "min": 0, "max": MAX_SEED}),
    }

    def run(self, ms, seed, image=None):
        time.sleep(ms / 1000)
        return (grey(seed) if image is None else image,)


class HoldInterpreter(TestNode):
    """Lets no other thread of the process run, as the loading of a large model may for a while."""

    INPUTS = SlowSilent.INPUTS

    def run(self, ms, seed, image=None):
        # A function of a PyDLL is called with the interpreter's lock held.
        ctypes.PyDLL(None).usleep(ms * 1000)
        return (grey(seed) if image is None else image,)


class Raise(TestNode):
    """Fails as a node with a mistake in it does."""

    INPUTS = {"message": ("STRING", {"default": "boom"})}

    def run(self, message, image=None):
        raise RuntimeError(message)


class RaiseOOM(TestNode):
    """Fails as a node does that finds no memory on the GPU."""

    INPUTS = {"message": ("STRING", {"default": "CUDA out of memory. Tried to allocate 20.00 GiB"})}

    def run(self, message, image=None):
        raise comfy.model_management.OOM_EXCEPTION(message)


class RaiseOnce(Raise):
    """The same, for the first of all processes that come here; the second one finds the mark that it left."""

    INPUTS = {
        "message": ("STRING", {"default": "boom"}),
        "mark": ("STRING", {"default": "mark"}),
    }

    def run(self, message, mark, image=None):
        path = os.path.join(folder_paths.get_output_directory(), mark)
        if os.path.exists(path):
            return (grey() if image is None else image,)
        open(path, "w").close()
        raise RuntimeError(message)


class RaiseWithNan(TestNode):
    """Fails with a NaN among its inputs, which ComfyUI tells with the error."""

    INPUTS = {"number": ("FLOAT", {"default": 0.0, "forceInput": True})}

    def run(self, number, image=None):
        return (grey(int(number)),)


class Nan(TestNode):
    """Gives a number that is none."""

    RETURN_TYPES = ("FLOAT",)

    def run(self, image=None):
        return (float("nan"),)


class HardExit(TestNode):
    """Ends the process at once, after one line on stderr."""

    INPUTS = {"code": ("INT", {"default": 3, "min": 0, "max": 255})}

    def run(self, code, image=None):
        print(f"worker_test: HardExit({code})", file=sys.stderr, flush=True)
        os._exit(code)


class SelfSignal(TestNode):
    """Sends its process a signal: 9 is what the kernel's out-of-memory killer sends, 11 is a crash."""

    INPUTS = {"signal": ("INT", {"default": 9, "min": 1, "max": 64})}

    def run(self, signal, image=None):
        os.kill(os.getpid(), signal)
        # A signal takes a moment to arrive.
        time.sleep(5)
        return (grey() if image is None else image,)


class Allocate(TestNode):
    """Takes so much of the machine's own memory, and touches all of it."""

    INPUTS = {"mib": ("INT", {"default": 16, "min": 1, "max": 1_000_000})}

    def run(self, mib, image=None):
        taken = torch.ones(mib << 20, dtype=torch.uint8)
        return (grey(int(taken[-1])),)


class ShowText(TestNode):
    """An output that is no file: the text is in the node's ui output."""

    INPUTS = {"text": ("STRING", {"default": "hello"})}
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    def run(self, text, image=None):
        return {"ui": {"text": [text]}}


class ShowWholeText(ShowText):
    """The same as some nodes do it: the text is no list."""

    def run(self, text, image=None):
        return {"ui": {"text": text}}


class ShowFrozen(ShowText):
    """How many objects Python's garbage collector passes over."""

    def run(self, text, image=None):
        return {"ui": {"text": [str(gc.get_freeze_count())]}}


class ShowNan(ShowText):
    """A text, and beside it a number that is none; a default and a range that no JSON has."""

    INPUTS = {
        "text": ("STRING", {"default": "hello"}),
        "limit": ("FLOAT", {"default": 1.0, "min": float("-inf"), "max": float("inf")}),
    }

    def run(self, text, limit, image=None):
        return {"ui": {"text": [text], "score": [float("nan")]}}


class Nothing(TestNode):
    """An output that leaves nothing behind."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True

    def run(self, image=None):
        return {}


class Noise(TestNode):
    """Pictures that no format makes small, each another one."""

    INPUTS = {
        "side": ("INT", {"default": 128, "min": 1, "max": 4096}),
        "count": ("INT", {"default": 1, "min": 1, "max": 64}),
        "seed": ("INT", {"default": 0, "min": 0, "max": MAX_SEED}),
    }

    def run(self, side, count, seed, image=None):
        return (torch.rand((count, side, side, 3), generator=torch.Generator().manual_seed(seed)),)


class SaveFile(TestNode):
    """An output file that is no image, numbered as SaveImage does; `kind` is its key in the node's ui output."""

    INPUTS = {
        "text": ("STRING", {"default": "hello"}),
        "filename_prefix": ("STRING", {"default": "sub/folder/file"}),
        "kind": ("STRING", {"default": "audio"}),
    }
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    def run(self, text, filename_prefix, kind, image=None):
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        filename = f"{name}_{counter:05}_.txt"
        with open(os.path.join(folder, filename), "w", encoding="utf-8") as file:
            file.write(text)
        return {"ui": {kind: [{"filename": filename, "subfolder": subfolder, "type": "output"}]}}


class NameFile(TestNode):
    """Names a file as its output that it did not make, as nodes do that show or mask an input."""

    INPUTS = {
        "filename": ("STRING", {"default": "keep.png"}),
        "subfolder": ("STRING", {"default": ""}),
        "type": ("STRING", {"default": "input"}),
    }
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    def run(self, filename, subfolder, type, image=None):
        return {"ui": {"images": [{"filename": filename, "subfolder": subfolder, "type": type}]}}


class TellUpload(ShowText):
    """Tells how long the file is that it takes as an upload, and how its name ends."""

    INPUTS = {"voice": (["none"], {"audio_upload": True})}

    @classmethod
    def VALIDATE_INPUTS(cls, voice):
        return folder_paths.exists_annotated_filepath(voice) or f"Invalid audio file: {voice}"

    def run(self, voice, image=None):
        path = folder_paths.get_annotated_filepath(voice)
        return {"ui": {"text": [f"{os.path.getsize(path)} {os.path.splitext(path)[1]}"]}}


NODE_CLASS_MAPPINGS = {
    node.__name__: node
    for node in (
        SlowProgress,
        SlowSilent,
        HoldInterpreter,
        Raise,
        RaiseOOM,
        RaiseOnce,
        RaiseWithNan,
        Nan,
        HardExit,
        SelfSignal,
        Allocate,
        ShowText,
        ShowWholeText,
        ShowFrozen,
        ShowNan,
        Nothing,
        Noise,
        SaveFile,
        NameFile,
        TellUpload,
    )
}
