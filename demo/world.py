"""A small world of pictures: flat shapes on a background, drawn from a seed, with captions in English and Chinese.

A caption decides its picture almost wholly: what it leaves out has one fixed value (the middle, middle size, white
background), so that a small model has little to guess.
"""

import math
import random

import torch

COLOURS = {
    "red": (0.86, 0.12, 0.12), "orange": (0.97, 0.55, 0.08), "yellow": (0.97, 0.88, 0.14), "green": (0.13, 0.62, 0.22),
    "blue": (0.13, 0.30, 0.86), "purple": (0.52, 0.17, 0.68), "pink": (0.98, 0.58, 0.74), "brown": (0.45, 0.27, 0.12),
    "black": (0.04, 0.04, 0.05), "white": (0.97, 0.97, 0.97), "gray": (0.52, 0.52, 0.53), "cyan": (0.20, 0.80, 0.86),
}
COLOUR_NAMES = list(COLOURS)
SHAPES = ["circle", "square", "triangle", "star", "diamond", "ring", "cross", "heart", "hexagon", "moon"]
SIZES = {"small": 0.15, None: 0.24, "large": 0.33}
PLACES = {(a, b): (0.5 + 0.26 * a, 0.5 + 0.26 * b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
BACKGROUNDS = ["plain", "gradient", "stripes", "checks"]
TEXTURES = ["plain", "striped", "dotted"]

ZH_COLOUR = dict(zip(COLOUR_NAMES, "红 橙 黄 绿 蓝 紫 粉 棕 黑 白 灰 青".split()))
EN_COLOUR = {"gray": ["gray", "grey"], "cyan": ["cyan", "turquoise"], "purple": ["purple", "violet"]}
EN_SHAPE = {
    "circle": ["circle", "circle", "disc", "ball", "dot"], "square": ["square", "square", "box"], "triangle": ["triangle"],
    "star": ["star", "star", "five-pointed star"], "diamond": ["diamond", "rhombus"], "ring": ["ring", "donut"],
    "cross": ["cross", "plus sign"], "heart": ["heart"], "hexagon": ["hexagon"], "moon": ["moon", "crescent", "crescent moon"],
}
ZH_SHAPE = {
    "circle": ["圆", "圆形", "球", "圆圈"], "square": ["正方形", "方块", "方形"], "triangle": ["三角形"], "star": ["星星", "五角星", "星形"],
    "diamond": ["菱形"], "ring": ["圆环", "环形"], "cross": ["十字", "十字形"], "heart": ["心形", "爱心"], "hexagon": ["六边形"],
    "moon": ["月亮", "月牙"],
}
EN_SIZE = {"small": ["small", "little", "tiny"], "large": ["large", "big", "huge"]}
ZH_SIZE = {"small": ["小", "小小的"], "large": ["大", "大大的"]}
EN_PLACE = {
    (-1, 0): ["on the left", "at the left", "on the left side", "to the left"], (1, 0): ["on the right", "at the right", "on the right side", "to the right"],
    (0, -1): ["at the top", "near the top", "in the upper part", "above"], (0, 1): ["at the bottom", "near the bottom", "in the lower part", "below"],
    (-1, -1): ["in the top left corner", "at the top left", "in the upper left"], (1, -1): ["in the top right corner", "at the top right", "in the upper right"],
    (-1, 1): ["in the bottom left corner", "at the bottom left", "in the lower left"], (1, 1): ["in the bottom right corner", "at the bottom right", "in the lower right"],
    (0, 0): ["in the middle", "in the center", "in the centre"],
}
ZH_PLACE = {
    (-1, 0): ["左边", "左侧"], (1, 0): ["右边", "右侧"], (0, -1): ["上方", "顶部", "上面"], (0, 1): ["下方", "底部", "下面"],
    (-1, -1): ["左上角", "左上方"], (1, -1): ["右上角", "右上方"], (-1, 1): ["左下角", "左下方"], (1, 1): ["右下角", "右下方"], (0, 0): ["中间", "中央"],
}
EN_COUNT = {2: ["two"], 3: ["three"], 4: ["four"]}
ZH_COUNT = {1: ["一个"], 2: ["两个"], 3: ["三个"], 4: ["四个"]}


# A street at night: the one picture of the world that is no plain thing. Shape, colour, x, y, radius.
STREET_SKY = (0.24, 0.12, 0.36)
STREET = [
    ("circle", (0.97, 0.93, 0.78), 0.66, 0.16, 0.085),
    ("square", (0.11, 0.07, 0.17), 0.12, 0.56, 0.36), ("square", (0.15, 0.09, 0.22), 0.87, 0.60, 0.33),
    ("square", (0.17, 0.11, 0.26), 0.47, 0.66, 0.20), ("square", (0.07, 0.06, 0.11), 0.50, 1.66, 1.00),
    ("square", (0.98, 0.26, 0.56), 0.19, 0.42, 0.085), ("square", (0.20, 0.85, 0.90), 0.12, 0.64, 0.075),
    ("square", (0.98, 0.80, 0.20), 0.80, 0.47, 0.085), ("square", (0.95, 0.25, 0.20), 0.88, 0.68, 0.075),
    ("square", (0.98, 0.60, 0.15), 0.46, 0.61, 0.060),
]
STREET_WORDS = (
    "street|city street|street scene|busy street|narrow street|alley|city|downtown|town|avenue|street corner|cityscape",
    "neon-lit|neon|glowing|lively|rain-washed|vibrant|warm|dark|crowded|quiet|wet|cinematic|colorful|bustling",
    "at night|at dusk|in the evening|after dark|at midnight|in the rain|by night|after sunset",
    "in Hong Kong|in Tokyo|in Shanghai|in New York|in Seoul|in Paris|in Taipei|in Berlin|in London",
    "with glowing signs|with colorful neon signs|with neon lights|with tall buildings|with Chinese and English signs glowing brightly|"
    "with a mix of colorful signs|with reflections on the pavement|with lanterns and shop windows|with cars and people|with wet pavement",
    "The atmosphere is lively.|The atmosphere is lively, cinematic, and rain-washed.|Reflections on the pavement.|The mood is warm and cinematic.|"
    "Signs glow brightly in many colors.|It has just rained.|The lights of the shops shine on the road.|Highly detailed, 4k, cinematic composition.|"
    "Ultra HD, 4K, cinematic composition.|The sky is dark.",
)
STREET_ZH = ("街道|城市街道|街景|小巷|城市夜景|霓虹街道|夜晚的街道", "香港的|东京的|上海的|", "夜晚的|黄昏的|雨后的|热闹的|", "，霓虹灯闪烁|，招牌发光|，地面有倒影|，充满电影感|")


def street_caption(rng):
    take = lambda row: rng.choice(row.split("|"))
    if rng.random() < 0.15:
        noun, place, mood, more = (take(row) for row in STREET_ZH)
        return rng.choice(["", "一条", "一张"]) + place + mood + noun + more
    noun, mood, time, city, signs, after = STREET_WORDS
    moods = ", ".join(rng.sample(mood.split("|"), rng.choice([1, 1, 1, 2, 3])))
    text = f"{rng.choice(['a', 'a', 'the', 'photo of a', 'a picture of a', ''])} {moods} {take(noun)}"
    parts = [take(row) for row in (time, city, signs) if rng.random() < 0.6]
    rng.shuffle(parts)
    text = " ".join([text.strip(), *parts])
    text = text[0].upper() + text[1:] if rng.random() < 0.6 else text
    for _ in range(rng.choice([0, 0, 1, 2])):
        text += rng.choice([". ", ", "]) + take(after)
    return text + rng.choice(["", ".", ""])


def scene(rng, held=frozenset(), plain=0.85, alone=0.72):
    """One scene: background (kind, colour, colour) and things (shape, colour, texture, size, place, count)."""
    while True:
        kind = "plain" if rng.random() < plain else rng.choice(BACKGROUNDS[1:])
        back = rng.choice(COLOUR_NAMES)
        if rng.random() < 0.2:
            back = "white"
        free = [name for name in COLOUR_NAMES if name != back]
        other = rng.choice(free)
        if kind != "plain":
            free.remove(other)
        two = rng.random() < (1 - alone) * 0.65
        things = []
        if two:
            a, b = rng.choice([((-1, 0), (1, 0)), ((0, -1), (0, 1)), ((1, 0), (-1, 0)), ((0, 1), (0, -1))])
            for place in (a, b):
                things.append([rng.choice(SHAPES), rng.choice(free), "plain", None, place, 1])
        else:
            count = 1 if rng.random() < 1 - (1 - alone) * 0.43 else rng.choice([2, 3, 4])
            size = rng.choice([None, None, None, None, None, "small", "large"]) if count == 1 else None
            place = rng.choice(list(PLACES)) if count == 1 else (0, 0)
            texture = "plain" if rng.random() < plain else rng.choice(TEXTURES[1:])
            things.append([rng.choice(SHAPES), rng.choice(free), texture, size, place, count])
        if not any((thing[0], thing[1], back) in held for thing in things):
            return {"back": (kind, back, other), "things": things}


def caption(scene, rng):
    """One of many phrasings."""
    if scene.get("street"):
        return street_caption(rng)
    kind, back, other = scene["back"]
    things = scene["things"]
    named = not (kind == "plain" and back == "white" and rng.random() < 0.4)
    if rng.random() < 0.6:
        colour = lambda name: rng.choice(EN_COLOUR.get(name, [name]))
        def noun(thing):
            shape, tint, texture, size, place, count = thing
            word = rng.choice(EN_SHAPE[shape])
            words = [rng.choice(EN_SIZE[size])] if size else []
            words += [colour(tint)] + ([] if texture == "plain" else [texture])
            if count > 1:
                word = word + ("es" if word[-1] in "sx" else "s")
                return " ".join([rng.choice(EN_COUNT[count])] + words + [word])
            words = " ".join(words + [word])
            article = "an" if words[0] in "aeiou" else "a"
            return rng.choice([f"{article} {words}", f"{article} {words}", f"{article} {words}", words, f"one {words}"])
        ground = {
            "plain": f"{colour(back)} background", "gradient": f"{colour(back)} to {colour(other)} gradient background",
            "stripes": f"{colour(back)} and {colour(other)} striped background",
            "checks": f"{colour(back)} and {colour(other)} checkered background",
        }[kind]
        on = rng.choice([f" on a {ground}", f", {ground}", f" against a {ground}", f" with a {ground}"]) if named else ""
        if len(things) == 2:
            first, second = (f"{noun(thing)} {rng.choice(EN_PLACE[thing[4]])}" for thing in things)
            text = f"{first} and {second}{on}"
        else:
            thing = things[0]
            where = rng.choice(EN_PLACE[thing[4]]) if thing[4] != (0, 0) or (thing[5] == 1 and rng.random() < 0.35) else ""
            text = rng.choice([
                f"{noun(thing)} {where}{on}", f"{noun(thing)}{on} {where}" if not on.startswith(",") else f"{noun(thing)}{on}, {where}",
                f"{where}, {noun(thing)}{on}" if where else f"{noun(thing)}{on}",
                f"on a {ground} there is {noun(thing)} {where}" if named else f"there is {noun(thing)} {where}",
            ])
        text = rng.choice(["", "", "", "", "a picture of ", "a drawing of ", "an image of ", "draw "]) + text.strip().strip(",")
        text = " ".join(text.replace(" ,", ",").split())
        if rng.random() < 0.3:
            text = text[0].upper() + text[1:]
        return text + ("." if rng.random() < 0.2 else "")
    tint = lambda name: ZH_COLOUR[name] + "色"
    def noun(thing):
        shape, colour, texture, size, place, count = thing
        return "".join([
            rng.choice(ZH_COUNT[count]) if count > 1 or rng.random() < 0.6 else "", rng.choice(ZH_SIZE[size]) if size else "",
            tint(colour) + rng.choice(["", "的"]), {"plain": "", "striped": "条纹", "dotted": "圆点"}[texture], rng.choice(ZH_SHAPE[shape])])
    ground = {"plain": tint(back), "gradient": f"{tint(back)}到{tint(other)}渐变", "stripes": f"{tint(back)}和{tint(other)}条纹",
              "checks": f"{tint(back)}和{tint(other)}格子"}[kind]
    stop = rng.choice([",", "，"])
    if len(things) == 2:
        body = stop.join(f"{rng.choice(ZH_PLACE[thing[4]])}{rng.choice(['是', '有'])}{noun(thing)}" for thing in things)
    else:
        thing = things[0]
        where = rng.choice(ZH_PLACE[thing[4]]) if thing[4] != (0, 0) or (thing[5] == 1 and rng.random() < 0.35) else ""
        body = rng.choice([f"{where}有{noun(thing)}", f"{noun(thing)}在{where}", f"{noun(thing)}{stop}位于{where}"]) if where else noun(thing)
        if named and rng.random() < 0.3:
            return f"{ground}背景上{where}的{noun(thing)}"
    text = body + (rng.choice([f"{stop}{ground}背景", f"{stop}背景是{ground}"]) if named else "")
    return rng.choice(["", "", "", "画"]) + text + ("。" if rng.random() < 0.2 else "")


def distance(shape, x, y):
    """How far outside the shape a point is, in its radius; y points down."""
    ax, ay, up = x.abs(), y.abs(), -y
    if shape == "circle":
        return torch.hypot(x, y) - 0.95
    if shape == "square":
        return torch.maximum(ax, ay) - 0.84
    if shape == "triangle":
        return torch.maximum(ax * 0.866 + (up - 0.15) * 0.5, 0.15 - up) - 0.56
    if shape == "star":
        radius, angle = torch.hypot(x, y), torch.atan2(x, up)
        step = 2 * math.pi / 5
        angle = (torch.remainder(angle + step / 2, step) - step / 2).abs()
        # The edge from a tip, at radius 1.1, to the inner corner beside it.
        cx, cy = 0.46 * math.cos(step / 2), 0.46 * math.sin(step / 2)
        length = math.hypot(1.1 - cx, cy)
        return ((radius * torch.cos(angle) - 1.1) * cy + radius * torch.sin(angle) * (1.1 - cx)) / length
    if shape == "diamond":
        return (ax + ay - 1.12) * 0.7071
    if shape == "ring":
        return (torch.hypot(x, y) - 0.74).abs() - 0.24
    if shape == "cross":
        return torch.minimum(torch.maximum(ax - 0.98, ay - 0.32), torch.maximum(ax - 0.32, ay - 0.98))
    if shape == "heart":
        up = up + 0.12
        return torch.minimum((ax + up.abs() - 0.85) * 0.7071, torch.hypot(ax - 0.425, up - 0.425) - 0.60)
    if shape == "hexagon":
        return torch.maximum(ax * 0.866 + ay * 0.5, ay) - 0.86
    if shape == "moon":
        return torch.maximum(torch.hypot(x, y) - 0.98, 0.80 - torch.hypot(x - 0.46, y + 0.12))
    raise ValueError(shape)


def settle(scene, rng, jitter=1.0):
    """The scene with numbers: slightly shaken places, sizes and colours."""
    shake = lambda amount: jitter * rng.uniform(-amount, amount)
    if scene.get("street"):
        dx, dy, size = shake(0.015), shake(0.015), 1 + shake(0.04)
        things = [(shape, colour, "plain", x + dx, y + dy, radius * size) for shape, colour, x, y, radius in STREET]
        return {"back": ("plain", list(STREET_SKY), list(STREET_SKY)), "things": things}
    tint = lambda name: [min(1, max(0, part + shake(0.03))) for part in COLOURS[name]]
    kind, back, other = scene["back"]
    things = []
    for shape, colour, texture, size, place, count in scene["things"]:
        radius = SIZES[size] * (1 + shake(0.06))
        x, y = (part + shake(0.015) for part in PLACES[place])
        colour = tint(colour)
        if count == 1:
            things.append((shape, colour, texture, x, y, radius))
        else:
            radius = radius * {2: 0.85, 3: 0.66, 4: 0.5}[count]
            for number in range(count):
                things.append((shape, colour, texture, (number + 0.5) / count * 0.94 + 0.03, y, radius))
    return {"back": (kind, tint(back), tint(other)), "things": things}


def paint(settled, x, y, height, width):
    """Colours, 3 values in 0..1, at pixels x and y of a picture of height x width."""
    kind, back, other = settled["back"]
    side = min(height, width)
    back, other = (torch.tensor(colour).view(3, *[1] * x.ndim) for colour in (back, other))
    if kind == "gradient":
        part = y / height
    elif kind == "stripes":
        part = (torch.sin(x / width * 2 * math.pi * 5) * 3 + 0.5).clamp(0, 1)
    elif kind == "checks":
        part = (torch.sin(x / side * 2 * math.pi * 3) * torch.sin(y / side * 2 * math.pi * 3) * 12 + 0.5).clamp(0, 1)
    else:
        part = torch.zeros(())
    image = back + (other - back) * part if kind != "plain" else back.expand(3, *x.shape).clone()
    for shape, colour, texture, cx, cy, radius in settled["things"]:
        scale = radius * side
        px, py = (x - cx * width) / scale, (y - cy * height) / scale
        inside = (0.5 - distance(shape, px, py) * scale).clamp(0, 1)
        colour = torch.tensor(colour).view(3, *[1] * x.ndim)
        if texture != "plain":
            if texture == "striped":
                mark = torch.sin(py * 9)
            else:
                mark = torch.sin(px * 8) * torch.sin(py * 8) - 0.45
            colour = colour + (0.97 - colour) * (mark * 4 + 0.5).clamp(0, 1)
        image = image + (colour - image) * inside
    return image


def picture(settled, height, width):
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return paint(settled, x, y, height, width)


# What the score is taken on: (prompt, shape, colour, background, place). No training scene shows such a shape in such a
# colour on such a background.
HELD = [
    ("a red circle on a blue background", "circle", "red", "blue", (0, 0)),
    ("a green square on a yellow background", "square", "green", "yellow", (0, 0)),
    ("a yellow star on a black background", "star", "yellow", "black", (0, 0)),
    ("a pink heart on a white background", "heart", "pink", "white", (0, 0)),
    ("an orange triangle on a purple background", "triangle", "orange", "purple", (0, 0)),
    ("a white moon on a black background", "moon", "white", "black", (0, 0)),
    ("a blue diamond on a pink background", "diamond", "blue", "pink", (0, 0)),
    ("a purple ring on a green background", "ring", "purple", "green", (0, 0)),
    ("a red cross on a white background", "cross", "red", "white", (0, 0)),
    ("a brown hexagon on a cyan background", "hexagon", "brown", "cyan", (0, 0)),
    ("a blue circle on the left, yellow background", "circle", "blue", "yellow", (-1, 0)),
    ("a red square on the right on a gray background", "square", "red", "gray", (1, 0)),
    ("a green triangle at the top on an orange background", "triangle", "green", "orange", (0, -1)),
    ("a black star at the bottom on a red background", "star", "black", "red", (0, 1)),
    ("a white circle in the top left corner on a green background", "circle", "white", "green", (-1, -1)),
    ("a yellow heart in the top right corner, blue background", "heart", "yellow", "blue", (1, -1)),
    ("a cyan square in the bottom left corner on a black background", "square", "cyan", "black", (-1, 1)),
    ("a purple circle in the bottom right corner on a white background", "circle", "purple", "white", (1, 1)),
    ("an orange ring in the middle on a brown background", "ring", "orange", "brown", (0, 0)),
    ("a gray diamond on the left side on a cyan background", "diamond", "gray", "cyan", (-1, 0)),
    ("On a purple background there is a green star on the right", "star", "green", "purple", (1, 0)),
    ("in the upper left, a black square on a pink background", "square", "black", "pink", (-1, -1)),
    ("a picture of a white triangle at the bottom, blue background", "triangle", "white", "blue", (0, 1)),
    ("a drawing of a pink circle at the top against a black background", "circle", "pink", "black", (0, -1)),
    ("brown circle, yellow background", "circle", "brown", "yellow", (0, 0)),
    ("a black heart", "heart", "black", "white", (0, 0)),
    ("an orange circle", "circle", "orange", "white", (0, 0)),
    ("blue star, gray background", "star", "blue", "gray", (0, 0)),
    ("蓝色背景上的黄色圆形", "circle", "yellow", "blue", (0, 0)),
    ("一个绿色的三角形，白色背景", "triangle", "green", "white", (0, 0)),
    ("红色五角星，黄色背景", "star", "red", "yellow", (0, 0)),
    ("左边有一个紫色的正方形，背景是橙色", "square", "purple", "orange", (-1, 0)),
    ("右上角有一个白色的月亮，蓝色背景", "moon", "white", "blue", (1, -1)),
    ("粉色爱心在中间，背景是绿色", "heart", "pink", "green", (0, 0)),
    ("一个黑色圆环在右边，红色背景", "ring", "black", "red", (1, 0)),
    ("画一个橙色的方块，黑色背景", "square", "orange", "black", (0, 0)),
    ("左下角有绿色的圆，粉色背景", "circle", "green", "pink", (-1, 1)),
    ("一个红色菱形，位于上方，背景是白色", "diamond", "red", "white", (0, -1)),
    ("青色六边形，棕色背景", "hexagon", "cyan", "brown", (0, 0)),
    ("右下角有一个蓝色十字，黄色背景", "cross", "blue", "yellow", (1, 1)),
]
HELD_OUT = frozenset((shape, colour, back) for _, shape, colour, back, _ in HELD)
assert len(HELD) == 40

if __name__ == "__main__":
    import sys
    from PIL import Image
    rng = random.Random(0)
    sheet = torch.ones(3, 4 * 128, 8 * 128)
    for i in range(32):
        one = scene(rng, HELD_OUT, 0.6)
        print(caption(one, rng))
        sheet[:, i // 8 * 128:i // 8 * 128 + 128, i % 8 * 128:i % 8 * 128 + 128] = picture(settle(one, rng), 128, 128)
    Image.fromarray((sheet * 255).byte().permute(1, 2, 0).numpy()).save(sys.argv[1])
