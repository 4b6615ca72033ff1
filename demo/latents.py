"""The latent pictures: 16 numbers for each 8x8 pixels, a linear map of them.

A principal component analysis of the world's patches gives the map, so the latents of any part of a picture of any size are
had at once, and transformer and VAE can be trained apart. The VAE's encoder learns this map, its decoder the way back.
"""

import os
import random

import torch
from safetensors.torch import load_file, save_file

import world


def patches(image):
    """3 x h x w in 0..1 to (h/8 x w/8) x 192 in -1..1."""
    c, h, w = image.shape[-3:]
    lead = image.shape[:-3]
    cut = image.reshape(*lead, c, h // 8, 8, w // 8, 8) * 2 - 1
    order = (*range(len(lead)), *(len(lead) + axis for axis in (1, 3, 0, 2, 4)))
    return cut.permute(order).reshape(*lead, h // 8, w // 8, 192)


PLACE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "latents.safetensors")


def analyse(scenes=600, seed=5):
    """Makes the map anew. It is kept in a file, so that a change of the world leaves the latents as they are."""
    rng = random.Random(seed)
    rows = []
    for _ in range(scenes):
        side = rng.choice([96, 128, 192, 256])
        rows.append(patches(world.picture(world.settle(world.scene(rng, plain=0.7), rng), side, side)).reshape(-1, 192)[::3])
    rows = torch.cat(rows)
    mean = rows.mean(0)
    size, vectors = torch.linalg.eigh(torch.cov((rows - mean).T))
    size, vectors = size.flip(0)[:16].clamp_min(1e-9), vectors.flip(1)[:, :16]
    # The three colours get the deviation 1, what is finer less: the more the rarer.
    deviation = size.sqrt()
    target = (deviation / deviation[2]).clamp(max=1.0).pow(0.45)
    return {"mean": mean, "down": vectors * (target / deviation), "up": (vectors * (deviation / target)).T, "deviation": target}


class Latents:
    def __init__(self):
        found = load_file(PLACE)
        self.mean, self.down, self.up = found["mean"], found["down"], found["up"]

    def encode(self, image):
        """... 3 x h x w to ... 16 x h/8 x w/8."""
        return ((patches(image) - self.mean) @ self.down).movedim(-1, -3)

    def decode(self, latent):
        """The linear way back, for a look before there is a VAE."""
        flat = latent.movedim(-3, -1) @ self.up + self.mean
        *lead, h, w, _ = flat.shape
        flat = flat.reshape(*lead, h, w, 3, 8, 8)
        n = len(lead)
        order = (*range(n), n + 2, n, n + 3, n + 1, n + 4)
        return ((flat.permute(order).reshape(*lead, 3, h * 8, w * 8) + 1) / 2).clamp(0, 1)


if __name__ == "__main__":
    save_file({name: value.contiguous() for name, value in analyse().items()}, PLACE)
