# %% [markdown]
# # Teach a stage a thing of yours
#
# [DreamBooth](https://arxiv.org/abs/2208.12242), which was made on Imagen, teaches a trained stage
# one thing from three to five pictures. Here only a low-rank adapter
# ([LoRA](https://arxiv.org/abs/2106.09685)) is trained: a product of two small matrices beside each
# kernel. The stage itself stays as it is, and what is learned is a small file.
#
# The stage is the base that ships with this package, which a CPU can train; 200 steps take some
# minutes there. It has been run on a CPU alone.

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
# ## Before
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
# ## What the base should keep
#
# A stage that sees one thing alone forgets the others. DreamBooth's prior preservation shows it
# pictures that it painted itself, beside those of the thing.

# %%
# @title Pictures of other things
# So many of the things that the base knows are painted, one picture of each.
from imagen_jax.data.captions import noun_phrase

num_others = 48  # @param {type:"integer"}

words = base.stages[0].stored.vocabulary
known = words.concepts[:: len(words.concepts) // num_others]
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
# ## After
#
# The same prompts, from the same noise.

# %%
adapted = imagen_jax.load_cascade(base=workdir)
adapted(prompts, seed=0, num_steps=paint_steps)

# %% [markdown]
# ## The adapter as a file
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
