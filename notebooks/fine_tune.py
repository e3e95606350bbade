# %% [markdown]
# # Fine-tune a stage
#
# Two things are taught to the base that ships with this package, which a CPU can train:
#
# 1. a thing of yours, by a small adapter: 200 steps take some minutes;
# 2. to follow a drawing, by training all of its network: 300 steps take some minutes too.
#
# The first has been run, on a CPU alone. **The second has not been run in this form**: its minutes
# follow from a longer run of the same network (`docs/maps.md`); what 300 steps teach is unknown.

# %% [markdown]
# ## A thing of yours
#
# [DreamBooth](https://arxiv.org/abs/2208.12242), which was made on Imagen, teaches a trained stage
# one thing from three to five pictures. Here only a low-rank adapter
# ([LoRA](https://arxiv.org/abs/2106.09685)) is trained: a product of two small matrices beside each
# kernel. The stage itself stays as it is, and what is learned is a small file.

# %%
# @title The pictures
# Each lies beside a `.txt` of the same name, which says what it shows by a rare word and by its
# kind. Without a folder, this cell draws five of a thing that the base has never seen.
from pathlib import Path

from PIL import Image, ImageDraw

folder = ""  # @param {type:"string"}
caption = "a zibo toy"  # @param {type:"string"}


def draw_zibo(x, y, radius):
    """A toy with seven corners and a face, on white."""
    picture = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(picture)
    pen.regular_polygon((x, y, radius), 7, fill=(120, 60, 180))
    pen.circle((x, y), radius * 0.6, fill=(60, 200, 190))
    for eye in (x - radius * 0.25, x + radius * 0.25):
        pen.circle((eye, y - radius * 0.15), radius * 0.16, fill="white")
        pen.circle((eye, y - radius * 0.12), radius * 0.07, fill="black")
    mouth = (x - radius * 0.3, y - radius * 0.1, x + radius * 0.3, y + radius * 0.4)
    pen.arc(mouth, 20, 160, fill="black", width=6)
    return picture


def save(pictures, captions, directory):
    """The pictures, each beside its caption."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, (picture, text) in enumerate(zip(pictures, captions, strict=True)):
        picture.save(directory / f"{number:03}.png")
        (directory / f"{number:03}.txt").write_text(f"{text}\n")


if not folder:
    folder = "zibo"
    places = [(128, 136, 100), (118, 130, 92), (138, 140, 88), (128, 128, 108), (124, 142, 96)]
    save([draw_zibo(*place) for place in places], [caption] * len(places), Path(folder))
pictures = [Image.open(path).resize((128, 128)) for path in sorted(Path(folder).glob("*.png"))]
row = Image.new("RGB", (128 * len(pictures), 128))
for number, picture in enumerate(pictures):
    row.paste(picture, (128 * number, 0))
row

# %% [markdown]
# ### Before
#
# To the base, the rare word means nothing yet.

# %%
# @title Prompts
# The first names the thing; the others show what the base must not forget.
prompts = "a zibo toy; a red apple; a cat face; a star"  # @param {type:"string"}
paint_steps = 30  # @param {type:"integer"}

prompts = [prompt.strip() for prompt in prompts.split(";")]
base = imagen_jax.load_cascade().first(1)
base(prompts, seed=0, num_steps=paint_steps)

# %% [markdown]
# ### What the base should keep
#
# A stage that sees one thing alone forgets the others. DreamBooth's prior preservation shows it
# pictures that it painted itself, beside those of the thing.

# %%
# @title Pictures of other things
# So many of the things that the base knows are painted, one picture of each.
from imagen_jax.data.captions import noun_phrase

num_others = 48  # @param {type:"integer"}

words = base.stages[0].stored.vocabulary
known = words.concepts[:: max(1, len(words.concepts) // num_others)]
others = [noun_phrase(words.shortest_name(concept)) for concept in known]
painted = base(others[:num_others], seed=1, num_steps=paint_steps)
save(painted.images, others[:num_others], Path("others"))
painted

# %%
# @title Train
# Interrupt the cell to stop. The run saves, and this cell goes on from there. Half of what the
# adapter sees is the thing, half is what the base painted.
import dataclasses

from imagen_jax.cli.train import load_config
from imagen_jax.training.loop import run

workdir = "runs/zibo"  # @param {type:"string"}
train_steps = 200  # @param {type:"integer"}

config = load_config("dreambooth/emoji")
config = dataclasses.replace(
    config,
    data=dataclasses.replace(config.data, mixture=(f"0.5*folder:{folder}", "0.5*folder:others")),
    training=dataclasses.replace(
        config.training,
        num_steps=train_steps,
        log_every=max(1, train_steps // 20),
        checkpoint_every=train_steps,
        sample_every=train_steps,
    ),
)
print("rank", config.adapter.rank, "on", ", ".join(config.adapter.targets))
run(config, Path(workdir))

# %% [markdown]
# ### After
#
# The same prompts, from the same noise.

# %%
adapted = imagen_jax.load_cascade(base=workdir)
adapted(prompts, seed=0, num_steps=paint_steps)

# %% [markdown]
# ### The adapter as a file
#
# The file holds the two small matrices of each kernel. It is added to its stage when the weights
# are read, by a weight: 0 is the stage as it was, 1 is what was learned.

# %%
# @title Export
# The verb runs as a process of its own, on the CPU: an accelerator belongs to one process.
import os

command = [sys.executable, "-m", "imagen_jax", "export", workdir, "zibo.safetensors"]
done = subprocess.run(
    command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
)
if done.returncode:
    raise RuntimeError(done.stderr)
print(done.stdout)

# %%
# @title Weights
from IPython.display import display

from imagen_jax.pipeline.shipped import shipped_stage

weights = [0.0, 0.5, 1.0]  # @param {type:"raw"}

for weight in weights:
    stage = imagen_jax.load_stage(shipped_stage("base"), adapters=[("zibo.safetensors", weight)])
    print("weight", weight)
    display(imagen_jax.load_cascade(base=stage)(prompts, seed=0, num_steps=paint_steps))

# %% [markdown]
# Larger stages are taught in the same way: `dreambooth/base_64` adapts the paper's base, and
# `dreambooth/if_i_xl` and `dreambooth/if_ii_l` those of DeepFloyd IF. `docs/adapters.md` says how.

# %% [markdown]
# ## To follow a drawing
#
# A stage can be shown pictures beside the text: here a map, which says which of eleven colours
# each pixel has, and outlines. Each is read by a convolution of its own, which begins as zero, so
# that the first step starts from the base as it is. Then all of the network is trained.
#
# Maps are learned quickly. Outlines take longer: a stage that was taught both in 3,000 steps
# followed each, though its pictures were blotched (`docs/maps.md`). Fewer steps teach less.

# %%
# @title Drawings
# Without a folder, this cell draws things that the base knows, but where it never paints them:
# of any size and at any place. In a folder of yours each picture lies beside a `.txt` of the same
# name with a caption.
import random

import numpy as np
from PIL import ImageOps

from imagen_jax.data import emoji_colours, emoji_concepts, emoji_vectors
from imagen_jax.pipeline.sheets import grid

drawings_folder = ""  # @param {type:"string"}
num_drawings = 1500  # @param {type:"integer"}

COLOURS = emoji_colours.BACKGROUNDS


def draw_thing(rng):
    """A thing somewhere on a coloured ground, and its caption."""
    concept, ground = rng.choice(emoji_concepts.core_concepts()), rng.choice(list(COLOURS))
    vector = emoji_vectors.vectors(rng.choice(emoji_vectors.STYLES))[concept.key]
    thing = emoji_vectors.rasterise(vector, rng.randint(32, 64))
    picture = Image.new("RGB", (64, 64), COLOURS[ground])
    room = 64 - thing.width
    picture.paste(thing, (rng.randint(0, room), rng.randint(0, room)), thing)
    return picture, f"{noun_phrase(concept.label)} on {noun_phrase(f'{ground} background')}"


def read(path):
    """A picture of a folder, cut to a square, and its first caption."""
    picture = ImageOps.fit(Image.open(path).convert("RGB"), (64, 64))
    return picture, path.with_suffix(".txt").read_text().split("\n")[0]


if drawings_folder:
    drawn = [read(path) for path in sorted(Path(drawings_folder).glob("*.png"))]
else:
    rng = random.Random(0)
    drawn = [draw_thing(rng) for _ in range(num_drawings)]
if len(drawn) < 5:
    raise ValueError(f"There are {len(drawn)} pictures; four are kept, so at least 5 are needed.")
print(len(drawn), "pictures, such as", drawn[0][1])

# %%
# @title Maps and outlines
# Each is made from its picture, and lies beside it as `NAME.labels.png` and `NAME.sketch.png`: the
# number of the nearest of eleven colours for each pixel, and black where the colour changes. The
# first four pictures are kept from the training.
from imagen_jax.data.picture_maps import in_colours, label_map, sketch


def shown(pictures):
    """What the stage is shown of some pictures."""
    pixels = [np.asarray(picture) for picture in pictures]
    return {"labels": [*map(label_map, pixels)], "sketch": [*map(sketch, pixels)]}


def rows(pictures):
    """Pictures above their maps and their outlines."""
    told = shown(pictures)
    lines = [np.stack([lines] * 3, axis=-1) for lines in told["sketch"]]
    return [[*map(np.asarray, pictures)], [*map(in_colours, told["labels"])], lines]


unseen, unseen_texts = [list(part) for part in zip(*drawn[:4], strict=True)]
taught, taught_texts = [list(part) for part in zip(*drawn[4:], strict=True)]
save(taught, taught_texts, Path("drawings"))
for kind, images in shown(taught).items():
    for number, image in enumerate(images):
        Image.fromarray(image).save(f"drawings/{number:03}.{kind}.png")
grid(rows(taught[:8]), cell=96)

# %%
# @title Train with drawings
# Interrupt the cell to stop. The run saves, and this cell goes on from there. In three of ten
# examples the map is left out, and in as many the outlines, so that both can be left out later.

maps_workdir = "runs/maps"  # @param {type:"string"}
maps_steps = 300  # @param {type:"integer"}
maps_batch = 16  # @param {type:"integer"}

config = load_config("emoji_maps_64")
config = dataclasses.replace(
    config,
    data=dataclasses.replace(config.data, source="folder:drawings", eval_source=""),
    training=dataclasses.replace(
        config.training,
        num_steps=maps_steps,
        batch_size=maps_batch,
        log_every=max(1, maps_steps // 20),
        checkpoint_every=maps_steps,
        sample_every=0,
        eval_every=0,
    ),
)
print("shown:", ", ".join(config.conditions.pictures))
run(config, Path(maps_workdir), init_from=shipped_stage("base"))

# %% [markdown]
# ### What it paints by drawings
#
# These drawings were kept from the training. Each is painted four times from the same noise, and
# the share says how many of the pixels have the colour that the map asks for.

# %%
ways = {
    "text": (),
    "and outlines": ("sketch",),
    "and map": ("labels",),
    "and both": ("labels", "sketch"),
}
follows = imagen_jax.load_cascade(base=maps_workdir)
asked, sheet = shown(unseen), rows(unseen)
for way, kinds in ways.items():
    told = {kind: asked[kind] for kind in kinds}
    painted = follows(unseen_texts, pictures=told, seed=0, num_steps=paint_steps).stages[0]
    found = [label_map(picture) for picture in painted]
    print(f"{way}: {np.mean(np.equal(found, asked['labels'])):.0%}")
    sheet.append(list(painted))
print("\n".join(unseen_texts))
grid(sheet, [[name] * len(unseen) for name in ["drawn", "map", "outlines", *ways]], cell=96)

# %% [markdown]
# ### Guidance by pictures
#
# As guidance by text leads away from what has no text, this leads away from what has neither text
# nor pictures. At 1 it is off.

# %%
picture_scales = [1.0, 2.0, 4.0]  # @param {type:"raw"}

guided = [
    follows(
        unseen_texts,
        pictures=asked,
        picture_guidance_scale=scale,
        seed=0,
        num_steps=paint_steps,
    ).stages[0]
    for scale in picture_scales
]
grid(guided, [[f"scale {scale:g}"] * len(unseen) for scale in picture_scales], cell=96)

# %%
# @title A drawing of your own
# Draw with the eleven names of colours, or take `Image.open("mine.png").convert("RGB")`, a square.
drawing_text = "a red apple on a yellow background"  # @param {type:"string"}

drawing = Image.new("RGB", (64, 64), COLOURS["yellow"])
pen = ImageDraw.Draw(drawing)
pen.ellipse((26, 30, 46, 58), fill=COLOURS["red"])
pen.ellipse((38, 30, 58, 58), fill=COLOURS["red"])
pen.line((42, 32, 44, 20), fill=COLOURS["brown"], width=3)
pen.ellipse((44, 18, 56, 24), fill=COLOURS["green"])
painted = follows(
    drawing_text, pictures=shown([drawing]), num_images=4, seed=0, num_steps=paint_steps
)
grid([[row[0] for row in rows([drawing])], painted.stages[0]], cell=128)
