"""How far pictures of one prompt and 50 seeds are from each other: what the bounds of tests/it/drawn.rs are taken from.

usage: spread.py http://localhost:8188 [--seeds N] [--side PIXELS] [--first N]
"""

import argparse
import itertools

import numpy

import score
import world

# Prompt, the thing's colour, the background's.
PROMPTS = [
    ("a red circle on a white background", "red", "white"),
    ("a red square on a white background", "red", "white"),
    ("a green square on a white background", "green", "white"),
    ("a blue circle on the left on a yellow background", "blue", "yellow"),
    ("a yellow square in the top right corner, blue background", "yellow", "blue"),
    ("一个红色菱形，位于下方，背景是白色", "red", "white"),
    ("绿色圆形，蓝色背景", "green", "blue"),
]


def places_of(pixels, colour):
    aim = numpy.array(world.COLOURS[colour]) * 255
    return ((pixels - aim) ** 2).sum(-1) < 80 ** 2


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def region(places):
    """As in the test: its middle, and where it reaches farther than a circle (0.43 a square, 0 a circle, -0.43 a diamond)."""
    rows, columns = numpy.nonzero(places)
    place = columns - columns.mean() + 1j * (rows - rows.mean())
    # Specks farther off than any corner are left out.
    place = place[abs(place) ** 2 <= 2.25 * len(rows) / numpy.pi]
    side = len(places)
    return columns.mean() / side, rows.mean() / side, -(place ** 4).real.sum() / (abs(place) ** 4).sum()


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument("worker")
    parse.add_argument("--seeds", type=int, default=50)
    parse.add_argument("--side", type=int, default=512)
    parse.add_argument("--first", type=int, help="this many of the prompts")
    arguments = parse.parse_args()
    for prompt, colour, ground in PROMPTS[:arguments.first]:
        rows, masks = [], []
        for seed in range(arguments.seeds):
            image, _ = score.draw(arguments.worker, prompt=prompt, seed=seed, width=arguments.side, height=arguments.side)
            pixels = numpy.asarray(image).astype(float)
            mask = places_of(pixels, colour)
            masks.append(mask)
            rows.append((mask.mean(), places_of(pixels, ground).mean(), *region(mask)))
        same = [overlap(a, b) for a, b in itertools.combinations(masks, 2)]
        print(prompt)
        for name, values in zip(("thing", "background", "x", "y", "corners"), zip(*rows)):
            print(f"  {name:12} {min(values):.3f} to {max(values):.3f}, mean {sum(values) / len(values):.3f}")
        print(f"  two seeds    {min(same):.3f} to {max(same):.3f}, mean {sum(same) / len(same):.3f}", flush=True)


if __name__ == "__main__":
    main()
