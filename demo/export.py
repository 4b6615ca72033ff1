"""Writes what was trained as the files that the worker holds.

usage: export.py transformer|edit|vae FILE.pt
"""

import os
import sys

import torch
from safetensors.torch import save_file

import comfy_parts
import train_vae

HERE = os.path.dirname(os.path.abspath(__file__))
TRAINED = os.path.join(HERE, "../src/comfy/demo/trained")


def write(state, name):
    os.makedirs(TRAINED, exist_ok=True)
    path = os.path.join(TRAINED, name + ".safetensors")
    state = {key: value.detach().to(torch.bfloat16).contiguous() for key, value in state.items()}
    save_file(state, path, {"format": "pt", "description": "demo weights of qwen-image-worker, trained"})
    print(path, os.path.getsize(path))


def main():
    name, path = sys.argv[1:]
    saved = torch.load(path)
    if name == "vae":
        built = comfy_parts.vae()
        built.load_state_dict(saved)
        write(train_vae.folded(built), name)
    else:
        # By this empty tensor ComfyUI knows that references are to be at the time 0.
        kind = {"__index_timestep_zero__": torch.zeros(0)} if name == "edit" else {}
        write({**saved["model"], **saved["mean"], **kind}, name)


if __name__ == "__main__":
    main()
