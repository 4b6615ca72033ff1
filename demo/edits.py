"""Edits of pictures of the world: instructions in English and Chinese, and what becomes of the picture."""

import random

from world import (COLOUR_NAMES, COLOURS, EN_COLOUR, EN_SHAPE, HELD_OUT, PLACES, SHAPES, ZH_COLOUR, ZH_PLACE, ZH_SHAPE, picture, settle)

# How often each is done; the last two need a second picture.
KINDS = {"colour": 0.22, "background": 0.18, "remove": 0.12, "shape": 0.22, "move": 0.14, "size": 0.12}
WITH_SECOND = {"background of 2": 0.25, "colour of 2": 0.25}

EN = {
    "colour": "make the {thing} {new}|make the {thing} {new}|make it {new}|change the {thing} to {new}|change the color of the {thing} to {new}|"
              "turn the {thing} {new}|paint the {thing} {new}|color the {thing} {new}|the {thing} should be {new}|{new} {thing} instead",
    "background": "make the background {new}|make the background {new}|change the background to {new}|change the background color to {new}|"
                  "turn the background {new}|replace the background with {new}|put it on a {new} background|paint the background {new}|a {new} background",
    "remove": "remove the {thing}|remove the {thing}|delete the {thing}|erase the {thing}|take the {thing} away|remove it",
    "shape": "replace the {thing} with {a} {new}|replace the {thing} by {a} {new}|turn the {thing} into {a} {new}|turn the {thing} into {a} {new}|"
             "make the {thing} {a} {new}|change the {thing} into {a} {new}|change the {thing} to {a} {new}",
    "move": "move the {thing} {new}|move the {thing} {new}|move it {new}|shift the {thing} {new}|put the {thing} {new}",
    "larger": "make the {thing} larger|make the {thing} bigger|enlarge the {thing}|make it larger|make it bigger|a bigger {thing}",
    "smaller": "make the {thing} smaller|shrink the {thing}|make it smaller|a smaller {thing}|make the {thing} tiny",
    "background of 2": "use the background of image 2|use the background of picture 2|put it on the background of image 2|"
                       "replace the background with that of image 2|give it the background of the second image",
    "colour of 2": "make the {thing} the color of the {other} in image 2|give the {thing} the color of the {other} in image 2|"
                   "paint the {thing} in the color of image 2|use the color of the {other} in picture 2",
}
ZH = {
    "colour": "把{thing}变成{new}|把{thing}改成{new}|将{thing}改为{new}|把{thing}的颜色改为{new}|让{thing}变成{new}|{thing}变成{new}",
    "background": "把背景改成{new}|将背景变为{new}|背景换成{new}|把背景变成{new}|背景改为{new}",
    "remove": "删除{thing}|去掉{thing}|移除{thing}|把{thing}去掉",
    "shape": "把{thing}换成{new}|把{thing}变成{new}|将{thing}替换为{new}",
    "move": "把{thing}移到{new}|将{thing}移动到{new}|{thing}移到{new}",
    "larger": "把{thing}放大|把{thing}变大|{thing}大一点",
    "smaller": "把{thing}缩小|把{thing}变小|{thing}小一点",
    "background of 2": "使用图2的背景|把背景换成图2的背景|背景和图2一样",
    "colour of 2": "把{thing}变成图2中{other}的颜色|用图2的颜色画{thing}",
}
EN_TO = {
    (-1, 0): "to the left", (1, 0): "to the right", (0, -1): "to the top|up", (0, 1): "to the bottom|down", (0, 0): "to the middle|to the center",
    (-1, -1): "to the top left corner|to the top left", (1, -1): "to the top right corner|to the top right",
    (-1, 1): "to the bottom left corner|to the bottom left", (1, 1): "to the bottom right corner|to the bottom right",
}
# What larger and smaller mean for a radius.
SCALES = {"larger": 1.4, "smaller": 0.65}


def scene(rng):
    """One plain thing on a plain background."""
    back = "white" if rng.random() < 0.2 else rng.choice(COLOUR_NAMES)
    colour = rng.choice([name for name in COLOUR_NAMES if name != back])
    size = rng.choice([None, None, None, None, "small", "large"])
    place = (0, 0) if rng.random() < 0.4 else rng.choice(list(PLACES))
    return {"back": ("plain", back, back), "things": [[rng.choice(SHAPES), colour, "plain", size, place, 1]]}


def edit(scenes, rng):
    """What is to be done to the first of these pictures: its kind, and the new colour, shape, place or size."""
    kinds = KINDS if len(scenes) == 1 or rng.random() < 0.5 else WITH_SECOND
    kind = rng.choices(list(kinds), kinds.values())[0]
    (shape, colour, _, size, place, _), = scenes[0]["things"]
    back = scenes[0]["back"][1]
    if kind == "shape":
        return kind, rng.choice([one for one in SHAPES if one != shape])
    if kind == "move":
        return kind, rng.choice([one for one in PLACES if one != place])
    if kind == "size":
        return kind, {"small": "larger", "large": "smaller"}.get(size) or rng.choice(list(SCALES))
    return kind, rng.choice([name for name in COLOUR_NAMES if name not in (colour, back)])


def makes(scenes, kind, new):
    """Shape, colour, background and place of what comes of it; no shape, where nothing is left."""
    (shape, colour, _, _, place, _), = scenes[0]["things"]
    back = scenes[0]["back"][1]
    if kind == "background of 2":
        back = scenes[1]["back"][1]
    elif kind == "colour of 2":
        colour = scenes[1]["things"][0][1]
    return {"colour": (shape, new, back, place), "background": (shape, colour, new, place), "remove": (None, None, back, place),
            "shape": (new, colour, back, place), "move": (shape, colour, back, new)}.get(kind, (shape, colour, back, place))


def is_wanted(scenes, kind, new):
    """Whether a picture comes of it in which a thing can be told from its background, and none of those that no training picture shows."""
    shape, colour, back, _ = makes(scenes, kind, new)
    made = (shape, colour, back)
    return colour != back and not (kind not in ("size", "move") and (made in HELD_OUT or made in HELD_EDITED))


def instruction(scenes, kind, new, rng):
    """One of many phrasings."""
    shape, colour = scenes[0]["things"][0][:2]
    other = scenes[1]["things"][0][0] if len(scenes) > 1 else shape
    row = new if kind == "size" else kind
    if rng.random() < 0.65:
        tint = lambda name: rng.choice(EN_COLOUR.get(name, [name]))
        thing = rng.choice(EN_SHAPE[shape])
        if rng.random() < 0.2:
            thing = f"{tint(colour)} {thing}"
        new = {"shape": lambda: rng.choice(EN_SHAPE[new]), "move": lambda: rng.choice(EN_TO[new].split("|")), "size": str}.get(kind, lambda: tint(new))()
        text = rng.choice(EN[row].split("|")).format(thing=thing, new=new, a="an" if new[:1] in "aeiou" else "a", other=rng.choice(EN_SHAPE[other]))
        if rng.random() < 0.35:
            text = text[0].upper() + text[1:]
        return text + ("." if rng.random() < 0.2 else "")
    tint = lambda name: ZH_COLOUR[name] + "色"
    thing = rng.choice(ZH_SHAPE[shape])
    if rng.random() < 0.2:
        thing = tint(colour) + rng.choice(["", "的"]) + thing
    new = {"shape": lambda: rng.choice(ZH_SHAPE[new]), "move": lambda: rng.choice(ZH_PLACE[new]), "size": str}.get(kind, lambda: tint(new))()
    return rng.choice(ZH[row].split("|")).format(thing=thing, new=new, other=rng.choice(ZH_SHAPE[other])) + ("。" if rng.random() < 0.2 else "")


def edited(pictures, kind, new, rng):
    """The picture after the edit, in numbers: what it leaves alone stays where it is."""
    tint = lambda name: [min(1, max(0, part + 0.5 * rng.uniform(-0.03, 0.03))) for part in COLOURS[name]]
    back, ((shape, colour, texture, x, y, radius),) = pictures[0]["back"], pictures[0]["things"]
    if kind == "colour":
        colour = tint(new)
    elif kind == "background":
        back = ("plain", tint(new), back[2])
    elif kind == "shape":
        shape = new
    elif kind == "move":
        x, y = PLACES[new]
    elif kind == "size":
        radius *= SCALES[new]
    elif kind == "background of 2":
        back = pictures[1]["back"]
    elif kind == "colour of 2":
        colour = pictures[1]["things"][0][1]
    return {"back": back, "things": [] if kind == "remove" else [(shape, colour, texture, x, y, radius)]}


def one(shape, colour, back, place=(0, 0)):
    return {"back": ("plain", back, back), "things": [[shape, colour, "plain", None, place, 1]]}


# What the score is taken on: (instruction, pictures, kind, what is new).
HELD_EDITS = [
    ("make the circle blue", [one("circle", "red", "white")], "colour", "blue"),
    ("change the star to green", [one("star", "yellow", "black")], "colour", "green"),
    ("paint the heart purple", [one("heart", "pink", "gray", (1, 0))], "colour", "purple"),
    ("change the color of the square to orange", [one("square", "cyan", "brown", (-1, -1))], "colour", "orange"),
    ("把三角形变成红色", [one("triangle", "green", "yellow")], "colour", "red"),
    ("make the background yellow", [one("circle", "purple", "white")], "background", "yellow"),
    ("change the background to black", [one("diamond", "orange", "blue", (0, -1))], "background", "black"),
    ("put it on a pink background", [one("cross", "blue", "white")], "background", "pink"),
    ("replace the background with green", [one("moon", "white", "red", (-1, 0))], "background", "green"),
    ("把背景改成蓝色", [one("ring", "orange", "white")], "background", "blue"),
    ("remove the circle", [one("circle", "green", "pink")], "remove", None),
    ("erase the star", [one("star", "red", "cyan", (1, 1))], "remove", None),
    ("delete the square", [one("square", "black", "orange")], "remove", None),
    ("去掉爱心", [one("heart", "brown", "white")], "remove", None),
    ("replace the circle with a star", [one("circle", "red", "white")], "shape", "star"),
    ("turn the square into a circle", [one("square", "blue", "gray")], "shape", "circle"),
    ("make the heart a diamond", [one("heart", "purple", "yellow", (-1, 0))], "shape", "diamond"),
    ("change the ring into a square", [one("ring", "white", "green")], "shape", "square"),
    ("turn the triangle into a heart", [one("triangle", "pink", "black", (1, -1))], "shape", "heart"),
    ("把星星换成圆形", [one("star", "orange", "purple")], "shape", "circle"),
    ("move the circle to the left", [one("circle", "red", "white")], "move", (-1, 0)),
    ("move the star to the top right corner", [one("star", "black", "yellow")], "move", (1, -1)),
    ("move the heart down", [one("heart", "pink", "blue", (-1, 0))], "move", (0, 1)),
    ("把方块移到右边", [one("square", "green", "white")], "move", (1, 0)),
    ("make the circle larger", [one("circle", "blue", "white")], "size", "larger"),
    ("make the diamond smaller", [one("diamond", "green", "black")], "size", "smaller"),
    ("把圆环放大", [one("ring", "red", "yellow")], "size", "larger"),
    ("use the background of image 2", [one("circle", "red", "white"), one("star", "yellow", "green")], "background of 2", None),
    ("replace the background with that of image 2", [one("square", "black", "pink"), one("heart", "red", "cyan", (1, 0))], "background of 2", None),
    ("make the circle the color of the star in image 2", [one("circle", "red", "white"), one("star", "blue", "gray")], "colour of 2", None),
    ("把爱心变成图2中方块的颜色", [one("heart", "pink", "black"), one("square", "orange", "white")], "colour of 2", None),
]
HELD_EDITED = frozenset(makes(pictures, kind, new)[:3] for _, pictures, kind, new in HELD_EDITS if kind not in ("size", "move"))


def numbers(scene):
    """A scene of the list in numbers, with nothing shaken."""
    return settle(scene, random.Random(0), 0.0)


def judge(image, entry):
    """What is right of an edited picture."""
    import numpy
    import score
    prompt, pictures, kind, new = entry
    shape, colour, back, place = makes(pictures, kind, new)
    right = score.judge(image, (prompt, shape, colour, back, place))[0] if shape else {}
    names = score.nearest(numpy.asarray(image.resize((128, 128)).convert("RGB")) / 255)
    if kind == "remove":
        right["removed"] = (names == COLOUR_NAMES.index(back)).mean() > 0.97
    if kind == "size":
        before = picture(numbers(pictures[0]), 128, 128).movedim(0, -1).numpy()
        grown = ((names == COLOUR_NAMES.index(colour)).mean() / (score.nearest(before) == COLOUR_NAMES.index(colour)).mean()) ** 0.5
        right["size"] = 0.85 < grown / SCALES[new] < 1.15
    return right


if __name__ == "__main__":
    rng = random.Random(1)
    for number in range(40):
        pictures = [scene(rng) for _ in range(1 + number % 2)]
        kind, new = edit(pictures, rng)
        if is_wanted(pictures, kind, new):
            print(*(f"{a['things'][0][1]} {a['things'][0][0]} on {a['back'][1]}" for a in pictures), "|", instruction(pictures, kind, new, rng))
