"""Keeps Python's garbage collector from holding ComfyUI up between two jobs. Written by qwen-image-worker.

ComfyUI collects garbage after a prompt (main.py, prompt_worker; every 10 seconds at most). Each time Python then looks
at half a million objects, nearly all of them modules and what belongs to them, which live as long as the process. For
0.3 seconds neither the next prompt begins nor is anybody told that this one has ended.

What is there when the first prompt comes is therefore set aside (gc.freeze): no collection looks at it again. Models
are loaded later, and are collected as ever.
"""

import gc

from server import PromptServer

NODE_CLASS_MAPPINGS = {}

_frozen = False


def freeze(prompt):
    global _frozen
    if not _frozen:
        _frozen = True
        gc.freeze()
    return prompt


PromptServer.instance.add_on_prompt_handler(freeze)
