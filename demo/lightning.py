"""Distils a LoRA of rank 4: what the model draws in 16 steps from some noise, drawn from the same noise in few. Prints how far its pictures
are from those of 16 steps, with it and without.

usage: lightning.py MODEL.pt NAME [--steps 4] [--minutes 8] [--edits]
"""

import argparse
import random
import time

import torch

import export
import latents
import texts
import train
import train_edits
from model import Lean

train.BUCKETS = (24, 56)
train_edits.BUCKETS = {1: (24,), 2: (40,)}

RANK = 4
LAYERS = ("img_mod.1", "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mod.1", "txt_mlp.net.0.proj", "txt_mlp.net.2", "attn.to_q", "attn.to_k",
          "attn.to_v", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_out.0", "attn.to_add_out")


def load(path):
    saved = torch.load(path)
    a = saved["arguments"]
    model = Lean(a["heads"], a["head_dim"], a["axes"], a["blocks"])
    model.load_state_dict({**saved["model"], **saved["mean"]})
    return model.requires_grad_(False), a


def sigmas_of(steps):
    u = torch.linspace(1, 0, steps + 1)
    return train.SHIFT * u / (1 + (train.SHIFT - 1) * u)


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument("model")
    parse.add_argument("name")
    parse.add_argument("--steps", type=int, default=4)
    parse.add_argument("--minutes", type=float, default=8)
    parse.add_argument("--batch", type=int, default=32)
    parse.add_argument("--edits", action="store_true")
    parse.add_argument("--rate", type=float, default=4e-4)
    arguments = parse.parse_args()
    rng, generator = random.Random(arguments.steps), torch.Generator().manual_seed(arguments.steps)
    model, a = load(arguments.model)
    settings = argparse.Namespace(**{**a, "pool": 12288, "empty": 0.0, "batch": arguments.batch})
    build, shares = (train_edits.batches, [{1: 0.7, 2: 0.3}]) if arguments.edits else (train.batches, [])
    batch = build(settings, texts.Texts(), train.Painter(latents.Latents()), rng, generator, *shares)
    names = [f"transformer_blocks.{block}.{layer}" for block in range(a["blocks"]) for layer in LAYERS]
    base = dict(model.named_parameters())
    down, up = {}, {}
    for name in names:
        outputs, inputs = base[f"{name}.weight"].shape
        down[name] = (torch.randn(RANK, inputs, generator=generator) / inputs ** 0.5).requires_grad_()
        up[name] = torch.zeros(outputs, RANK, requires_grad=True)
    adam = torch.optim.Adam([*down.values(), *up.values()], lr=arguments.rate, betas=(0.9, 0.98))
    many, finer = sigmas_of(16), 16 // arguments.steps
    few = many[::finer]
    run = torch.compile(lambda weights, *rest: torch.func.functional_call(model, weights, rest), dynamic=False)
    changed = lambda: {**base, **{f"{name}.weight": base[f"{name}.weight"] + up[name] @ down[name] for name in names}}
    begun, step = time.time(), 0
    while (elapsed := (time.time() - begun) / 60 / arguments.minutes) < 1:
        for group in adam.param_groups:
            group["lr"] = arguments.rate * min(1, (step + 1) / 10) * (1 - elapsed)
        tokens, references, *rest, bias = batch(elapsed)
        noise = torch.randn(tokens.shape, generator=generator)
        number = 0 if references is None else references.shape[1]
        beside = [] if references is None else [references]
        go = lambda weights, x, now: run(weights, torch.cat([x, *beside], 1), *rest, now.expand(len(x)), bias, number).float()
        x = noise
        # On the way that the few steps take: each learns where the model comes to by finer steps from there.
        for at, (now, then) in enumerate(zip(few, few[1:])):
            between = many[at * finer:(at + 1) * finer + 1]
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                aim = x
                for one, other in zip(between, between[1:]):
                    aim = aim + (other - one) * go(base, aim, one)
            with torch.autocast("cpu", torch.bfloat16):
                v = go(changed(), x, now)
            error = (v - (aim - x) / (then - now)).square().mean()
            error.backward()
            x = (x + (then - now) * v).detach()
            torch.nn.utils.clip_grad_norm_([*down.values(), *up.values()], 1.0)
            adam.step()
            adam.zero_grad()
        step += 1
        if step % 10 == 0:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                ends = []
                for weights, sigmas in ((base, many), (changed(), few), (base, few)):
                    x = noise
                    for now, then in zip(sigmas, sigmas[1:]):
                        x = x + (then - now) * go(weights, x, now)
                    ends.append(x)
            print(step, round(time.time() - begun), *(f"{(end - ends[0]).square().mean().item():.5f}" for end in ends[1:]), flush=True)
    state = {}
    for name in names:
        state[f"{name}.lora_down.weight"] = down[name].detach()
        state[f"{name}.lora_up.weight"] = up[name].detach()
        state[f"{name}.alpha"] = torch.tensor(float(RANK))
    export.write(state, arguments.name)


if __name__ == "__main__":
    main()
