"""Trains the VAE's halves apart: the encoder to give the linear latents of `latents.py`, the decoder to paint from them.

Attention in the middle is left out (its last layer is zero): it would compare all latent pixels of a picture, and what it learns
on small pictures need not hold for large ones. What is a 3x3x3 convolution is trained as the 3x3 that one picture uses.
"""

import argparse
import math
import os
import random
import time

import torch
import torch.nn.functional as F

import comfy_parts
import latents
import world
from comfy_parts import LATENT

wan = comfy_parts.comfy.ldm.wan.vae


def as_2d(self, x, cache_x=None, cache_list=None, cache_idx=None):
    return F.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, padding=self.padding[1:]).unsqueeze(2)


def norm(self, x):
    """The same as ComfyUI's, several times faster to train on a CPU."""
    return x * torch.rsqrt((x * x).sum(1, keepdim=True) + 1e-10) * (self.scale * self.gamma)


def build(dim, seed=0):
    model = comfy_parts.vae(dim)
    comfy_parts.fan_in(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("residual.6.weight"):
                value.mul_(0.1)
            if ".proj." in name or "to_qkv" in name and name.endswith("bias"):
                value.zero_()
            if "time_conv" in name:
                value.zero_()
    return model


def crops(rng, count, side):
    """Parts of pictures of many sizes."""
    found = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.08:
            coarse = torch.rand(1, 3, rng.choice([2, 4, 8, 16]), rng.choice([2, 4, 8, 16]))
            found.append(F.interpolate(coarse, size=(side, side), mode=rng.choice(["bilinear", "nearest"]))[0])
            continue
        whole = max(side, round(math.exp(rng.uniform(math.log(128), math.log(1400)))))
        top, left = (rng.randrange(whole - side + 1) for _ in range(2))
        settled = world.settle(world.scene(rng, plain=0.7), rng, 2.0)
        if kind < 0.7 and whole > side:
            # Where there is something to see.
            thing = rng.choice(settled["things"])
            top = min(max(0, round(thing[4] * whole - rng.uniform(0, 1) * side)), whole - side)
            left = min(max(0, round((thing[3] + rng.choice([-1, 0, 1]) * thing[5] * 0.9) * whole - rng.uniform(0, 1) * side)), whole - side)
        y, x = torch.meshgrid(torch.arange(side) + top + 0.5, torch.arange(side) + left + 0.5, indexing="ij")
        found.append(world.paint(settled, x, y, whole, whole))
    return torch.stack(found)


def decode(model, latent):
    x = model.conv2(latent.unsqueeze(2))
    return model.decoder(x)[0].squeeze(2)


def encode(model, image):
    return model.encode((image * 2 - 1).unsqueeze(2)).squeeze(2)


def folded(model):
    """The state of the model for ComfyUI: its latents have the mean and the deviation that ComfyUI takes out again."""
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    mean, deviation = LATENT.latents_mean.view(16), LATENT.latents_std.view(16)
    state["conv1.weight"][:16] *= deviation.view(16, 1, 1, 1, 1)
    state["conv1.bias"][:16] = state["conv1.bias"][:16] * deviation + mean
    weight = state["conv2.weight"][:, :, 0, 0, 0] / deviation
    state["conv2.bias"] = state["conv2.bias"] - weight @ mean
    state["conv2.weight"] = weight.view(16, 16, 1, 1, 1)
    return state


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument("out")
    parse.add_argument("--dim", type=int, default=4)
    parse.add_argument("--minutes", type=float, default=10)
    parse.add_argument("--batch", type=int, default=8)
    parse.add_argument("--side", type=int, default=96)
    parse.add_argument("--rate", type=float, default=4e-3)
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--resume")
    arguments = parse.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    wan.CausalConv3d.forward, wan.RMS_norm.forward = as_2d, norm
    wan.AttentionBlock.forward = lambda self, x, *args, **kwargs: x
    rng = random.Random(arguments.seed)
    torch.manual_seed(arguments.seed)
    codec = latents.Latents()
    model = build(arguments.dim, arguments.seed)
    if arguments.resume:
        model.load_state_dict(torch.load(arguments.resume))
    trained = [value for name, value in model.named_parameters() if ".middle.1." not in name and "time_conv" not in name]
    optimizer = torch.optim.Adam(trained, lr=arguments.rate, betas=(0.9, 0.99))
    start, step, recent, pool = time.time(), 0, [], []
    log = open(os.path.join(arguments.out, "log.csv"), "a")
    while (time.time() - start) / 60 < arguments.minutes:
        part = (time.time() - start) / 60 / arguments.minutes
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * max(0.02, 0.5 * (1 + math.cos(math.pi * part))) * min(1, (step + 1) / 50)
        if not pool:
            made = [crops(rng, arguments.batch, arguments.side) for _ in range(24)]
            pool = made * 2
            rng.shuffle(pool)
        image = pool.pop()
        latent = codec.encode(image)
        spread = torch.rand(len(image), 1, 1, 1) ** 2 * 0.25
        back = decode(model, latent + spread * torch.randn_like(latent))
        difference = back - (image * 2 - 1)
        paint_loss = difference.abs().mean() + difference.square().mean()
        latent_loss = (encode(model, image) - latent).square().mean()
        optimizer.zero_grad(set_to_none=True)
        (paint_loss + latent_loss).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        recent.append((difference.abs().mean().item() / 2, latent_loss.item()))
        step += 1
        if step % 50 == 0:
            parts = [sum(part) / len(recent) for part in zip(*recent)]
            line = f"{step},{time.time() - start:.0f},{parts[0]:.4f},{parts[1]:.4f}"
            print(line, flush=True)
            log.write(line + "\n")
            log.flush()
            recent = []
        if step % 400 == 0:
            torch.save(model.state_dict(), os.path.join(arguments.out, "vae.pt"))
    torch.save(model.state_dict(), os.path.join(arguments.out, "vae.pt"))


if __name__ == "__main__":
    main()
