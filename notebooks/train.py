# %% [markdown]
# # Train on your own pictures
#
# This notebook trains a base model of 64x64 pixels on a folder of pictures with captions, shows
# the curves and the samples, and writes the result as one file. After 150 steps of 16 pictures the
# smallest network had learned where things are and in which colours, and its pictures were still
# full of noise. Whether yours come out well depends on how many there are, on the config and on how
# long you train.
#
# It has been run on a CPU alone. The code is the same on a TPU and on a GPU.

# %%
# @title The folder
# Each picture lies beside a `.txt` of the same name with one caption a line. Without a folder,
# this cell draws one: shapes in some colours.
from pathlib import Path

from PIL import Image, ImageDraw

folder = ""  # @param {type:"string"}


def draw(shape, colour, corner, width):
    """A picture of a shape on white."""
    picture = Image.new("RGB", (64, 64), "white")
    pen, box = ImageDraw.Draw(picture), (corner, corner, corner + width, corner + width)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.regular_polygon((corner + width / 2, corner + width / 2, width / 2), 3, fill=colour)
    return picture


def draw_folder(directory):
    """Shapes of several colours, places and widths, each with its caption."""
    directory.mkdir(parents=True, exist_ok=True)
    for shape in ("circle", "square", "triangle"):
        for colour in ("red", "green", "blue", "orange", "purple"):
            for number in range(8):
                name = directory / f"{shape}-{colour}-{number}.png"
                draw(shape, colour, 6 + 2 * number, 44 - 2 * number).save(name)
                name.with_suffix(".txt").write_text(f"a {colour} {shape}\n")


if not folder:
    folder = "pictures"
    draw_folder(Path(folder))
print(len(list(Path(folder).rglob("*.txt"))), "captions in", folder)

# %%
# @title The config
# A stage is one config. `tiny_64` is the smallest; `emoji_base_64` is larger, and asks for 30,000
# steps by itself. Choose the batch size by the memory of the device.
import dataclasses

from imagen_jax.cli.train import load_config

config_name = "tiny_64"  # @param ["tiny_64", "emoji_base_64"]
train_steps = 600  # @param {type:"integer"}
batch_size = 32  # @param {type:"integer"}
sample_prompts = ("a red circle", "a blue square", "a green triangle")  # @param {type:"raw"}

config = load_config(config_name)
config = dataclasses.replace(
    config,
    data=dataclasses.replace(
        config.data, source=f"folder:{folder}", mixture=(), filters=(), eval_split=""
    ),
    training=dataclasses.replace(
        config.training,
        num_steps=train_steps,
        batch_size=batch_size,
        log_every=max(1, train_steps // 30),
        checkpoint_every=max(1, train_steps // 3),
        sample_every=max(1, train_steps // 3),
        sample_prompts=tuple(sample_prompts),
        eval_every=0,
    ),
)
print(config.name, config.resolution, "pixels:", config.optimizer)

# %%
# @title Train
# Interrupt the cell to stop. The run saves, and this cell goes on from there. Another config needs
# another directory.
from imagen_jax.training.loop import run

workdir = "runs/mine"  # @param {type:"string"}

run(config, Path(workdir))

# %% [markdown]
# ## Curves
#
# The loss falls quickly and then slowly. The loss by time says how hard it is to see through
# little noise (left) and through much (right).

# %%
from imagen_jax.training.plots import draw_curves

draw_curves([Path(workdir)])

# %% [markdown]
# ## Samples
#
# The run painted the same prompts from the same noise several times. The last sheet is the newest.

# %%
from IPython.display import display

for sheet in sorted(Path(workdir, "samples").glob("*.png")):
    print(sheet.stem)
    display(Image.open(sheet))

# %% [markdown]
# ## Paint with what was learned
#
# A training directory is a stage like any other. It is read at its newest checkpoint.

# %%
# @title Prompts
text = "a purple circle"  # @param {type:"string"}
paint_steps = 30  # @param {type:"integer"}

mine = imagen_jax.load_cascade(base=workdir)
mine(text, num_images=4, seed=0, num_steps=paint_steps)

# %% [markdown]
# ## Export
#
# One file holds the weights (the running mean, which samples are made with), the text encoder and
# the config. `load_cascade(base=FILE)` and `sample.py --base FILE` read it.

# %%
# The verb runs as a process of its own, on the CPU: an accelerator belongs to one process.
import os

command = [sys.executable, "-m", "imagen_jax", "export", workdir, "mine.safetensors"]
done = subprocess.run(
    command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
)
if done.returncode:
    raise RuntimeError(done.stderr)
print(done.stdout)
imagen_jax.load_cascade(base="mine.safetensors")(text, seed=0, num_steps=paint_steps)

# %% [markdown]
# To take it home in Colab: `from google.colab import files; files.download("mine.safetensors")`.
# Super-resolution stages are trained in the same way: `docs/training.md`.
