# %% [markdown]
# # Paint pictures from text
#
# The first part paints with the small cascade that the package holds. It knows some 170 things, as
# emoji: fruit, vegetables, flowers, animals, vehicles. It needs no download and no accelerator.
#
# The second part paints with DeepFloyd IF, the public cascade of Imagen's kind. It needs a
# download of 10 GB and more and an accelerator of 16 GB. It is behind a switch, and **nobody has
# run it with the published weights**.

# %%
# @title Load the cascade
# Weights are read when they are first needed.
largest = 1024  # @param [64, 256, 1024] {type:"raw"}

cascade = imagen_jax.load_cascade()
wanted = [stage.stored for stage in cascade.stages if stage.config.resolution <= largest]
cascade = imagen_jax.Cascade(wanted)
for stage in cascade.stages:
    print(stage.config.name, stage.config.resolution, "pixels,", stage.config.sampling.num_steps)

# %%
# @title Paint prompts
# Prompts are separated by semicolons. A number of steps of 0 takes each stage's own. The first
# call compiles the networks; later calls with as many steps do not.
prompts = "a red apple; a cat face; a sailboat"  # @param {type:"string"}
steps = 0  # @param {type:"integer"}

settings = {"num_steps": steps} if steps else {}
texts = [text.strip() for text in prompts.split(";")]
pictures = cascade(texts, seed=0, **settings)
pictures

# %% [markdown]
# Every stage's pictures are arrays, and `save` writes the pictures of all stages, a sheet and
# `manifest.json`, which says how they were made.

# %%
for painted in pictures.stages:
    print(painted.shape, painted.dtype)
for file in pictures.save("out/prompts"):
    print(file)

# %%
# @title A grid: several pictures of each prompt
num_images = 3  # @param {type:"integer"}

cascade(texts, num_images=num_images, seed=0, **settings)

# %% [markdown]
# ## Guidance
#
# A guidance scale of 1 takes the network's answer as it is. A larger one leads away from the
# answer without text: the picture fits the words better and varies less. Only the base is guided
# here, so only the base paints.

# %%
# @title Guidance scales
import numpy as np

from imagen_jax.pipeline.sheets import grid

guidance_scales = [1.0, 3.0, 8.0]  # @param {type:"raw"}

base = cascade.first(1)
rows = [
    base(texts, seed=0, guidance_scale=scale, progress=False, **settings).stages[0]
    for scale in guidance_scales
]
captions = [[f"{text}, {scale:g}" for text in texts] for scale in guidance_scales]
grid([list(row) for row in rows], captions, cell=160)

# %% [markdown]
# ## Seeds
#
# A picture depends on the prompt, the seed, its number, the weights and the settings. The same
# seed gives the same picture, and another seed gives another one.

# %%
# @title Seeds
seeds = [0, 1, 2, 3]  # @param {type:"raw"}


def paint(seed):
    return base(texts[0], seed=seed, progress=False, **settings).stages[0][0]


assert np.array_equal(paint(seeds[0]), paint(seeds[0]))
grid([[paint(seed) for seed in seeds]], [[f"seed {seed}" for seed in seeds]], cell=160)

# %% [markdown]
# ## Sizes
#
# The base paints any height and width that its network divides, which here are multiples of 16,
# and each stage after it enlarges what it is given. It was trained on 64x64, so look at how well
# it paints other sizes.

# %%
# @title Height x width of the base's picture
size = "64x96"  # @param {type:"string"}

base(texts[:1], size=size, seed=0, **settings)

# %% [markdown]
# ## Edits
#
# A picture can be painted again under another prompt. The strength says how much noise it begins
# with: 0 keeps the picture, 1 forgets it. A mask says where to paint anew (white), and all else
# stays as it was, to the pixel. `extend` adds a margin and paints that.

# %%
# @title Another prompt, a mask, a margin
from PIL import Image

strength = 0.7  # @param {type:"number"}
edit_prompt = "a green apple"  # @param {type:"string"}
margin = 32  # @param {type:"integer"}

first = base(texts[0], seed=0, progress=False, **settings).images[0]
mask = Image.new("L", first.size)
mask.paste(255, (first.width // 2, 0, *first.size))  # The right half.
edits = {
    f"strength {strength:g}": {"image": first, "strength": strength},
    "the right half": {"image": first, "mask": mask},
    f"{margin} pixels more at the right": {"image": first, "extend": {"right": margin}},
}
edited = [
    base(edit_prompt, seed=0, progress=False, **settings, **edit).stages[0][0]
    for edit in edits.values()
]
grid([[np.asarray(first), *edited]], [[texts[0], *edits]], cell=200)

# %% [markdown]
# ## Many prompts
#
# `stream` gives the pictures of any number of prompts, a chunk at a time, so that memory holds no
# more than a chunk.

# %%
for chunk in base.stream(texts, chunk=2, seed=0, progress=False, **settings):
    print(chunk.prompts, chunk.stages[-1].shape)

# %% [markdown]
# # DeepFloyd IF
#
# **Nobody has run this part with the published weights**: neither the download nor the memory
# that is said here has been tried. What runs in the tests is these cells with small random stages
# of the same shape.
#
# 1. Agree to the licence on the pages of DeepFloyd/IF-I-M-v1.0 and DeepFloyd/IF-II-M-v1.0 at
#    Hugging Face, and make a token that may read them.
# 2. In Colab, store the token as the secret `HF_TOKEN`. Elsewhere, set the variable of that name.
# 3. Set the switch and run the cells.
#
# T5-XXL takes 9.5 GB in bfloat16, stage I of size M 0.7 GB, L 1.9 GB and XL 8.6 GB. One of them
# is in memory at a time, so that one v5e chip of 16 GB holds each. Weights go to the device
# tensor by tensor, so the host needs little: Colab ends processes that take about 12 GB.
#
# A T4 of 16 GB has no bfloat16, and in float32 T5-XXL (19 GB) does not fit. Keep `dtype` at
# bfloat16 there: the weights then take 9.5 GB, and XLA computes by way of float32. Whether this
# fits and how long it takes has not been tried. This package has neither float16 nor weights of 8
# bits.

# %%
# @title Switch and sizes
run_deepfloyd_if = False  # @param {type:"boolean"}
stage_1 = "DeepFloyd/IF-I-M-v1.0"  # @param {type:"string"}
stage_2 = "DeepFloyd/IF-II-M-v1.0"  # @param {type:"string"}
dtype = "bfloat16"  # @param ["bfloat16", "float32"]

# %%
# @title Download
# A name is OWNER/NAME at Hugging Face, or a directory of this machine, which is taken as it is.
# Of stage II the text encoder is left out: it is that of stage I.
import shutil
from pathlib import Path


def download(name, *left_out):
    """The directory of a pipeline; what is there is not downloaded again."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download  # It reads HF_TOKEN by itself.

    wanted = ["*.json", "LICENSE*", "README.md", "tokenizer/*", "*.fp16*.safetensors"]
    return Path(
        snapshot_download(
            name,
            local_dir=Path("weights") / Path(name).name,
            allow_patterns=wanted,
            ignore_patterns=["safety_checker/*", "watermarker/*", *left_out],
        )
    )


if run_deepfloyd_if:
    print(f"{shutil.disk_usage('.').free / 1e9:.0f} GB of disk are free.")
    pipeline_1 = download(stage_1)
    pipeline_2 = download(stage_2, "text_encoder/*", "tokenizer/*")

# %%
# @title Convert
# The verb runs as a process of its own, on the CPU: an accelerator belongs to one process.
import os

from IPython.display import display


def convert(pipeline, out):
    """Writes a stage as one file; its header says how it samples and where its encoder is."""
    command = [sys.executable, "-m", "imagen_jax", "convert", "deepfloyd-if", pipeline, out]
    command += ["--text-encoder", pipeline_1, "--dtype", dtype]
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    print(done.stdout)


if run_deepfloyd_if:
    files = [Path("weights/IF-I.safetensors"), Path("weights/IF-II.safetensors")]
    files[0].parent.mkdir(exist_ok=True)
    convert(pipeline_1, files[0])
    convert(pipeline_2, files[1])

# %%
# @title Memory
import psutil


def show_memory(moment):
    """What this process takes of the host, and what is taken on each device that says it."""
    host = psutil.Process().memory_info().rss
    print(f"{moment}: host {host / 1e9:.2f} GB", end="")
    for device in jax.local_devices():
        used = (device.memory_stats() or {}).get("bytes_in_use")
        print("" if used is None else f", {device.device_kind} {used / 1e9:.2f} GB", end="")
    print()


show_memory("Now")

# %% [markdown]
# With `keep="one"` one network is in memory at a time: T5 embeds the prompts and is freed, then
# stage I is read, paints and is freed, then stage II.

# %%
# @title The text encoder embeds, and is freed
if_prompts = "a red apple on a wooden table; two green dragons"  # @param {type:"string"}

if run_deepfloyd_if:
    deepfloyd_if = imagen_jax.load_cascade(*files, keep="one")
    if_texts = [text.strip() for text in if_prompts.split(";")]
    embedded = deepfloyd_if.embed(if_texts)
    show_memory("After the text encoder")

# %%
# @title The stages paint, one after another
# 0 takes the numbers of steps of DeepFloyd IF's own pipelines, 100 and 50.
if_steps = 0  # @param {type:"integer"}


def tell(progress):
    """Shows the memory in the middle of each stage."""
    if progress.step == progress.num_steps // 2:
        show_memory(f"Stage {progress.stage + 1}")


if run_deepfloyd_if:
    if_settings = {"num_steps": if_steps} if if_steps else {}
    drawn = deepfloyd_if(
        if_texts, prompt_embeds=embedded, batch_size=1, seed=0, callback=tell, **if_settings
    )
    show_memory("After both stages")
    drawn.save("out/deepfloyd_if")
    display(drawn)
