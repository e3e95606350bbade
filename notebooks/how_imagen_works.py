# %% [markdown]
# # How Imagen works
#
# Imagen (Saharia et al. 2022, [arXiv:2205.11487](https://arxiv.org/abs/2205.11487)) paints a
# picture of a text in three steps: a text encoder turns the words into vectors, a diffusion model
# turns noise into a picture of 64x64 pixels that fits them, and two more diffusion models enlarge
# it to 256x256 and to 1024x1024.
#
# Every sentence here stands beside code that runs. The pictures are painted by the small cascade
# that the package holds. It knows some 170 things, as emoji, so what you see is the method and not
# the paper's quality.

# %%
# @title Load the cascade
# Fewer steps are quicker, and a smaller side too (a multiple of 16). The cascade was trained on 64.
import matplotlib.pyplot as plt
import numpy as np

from imagen_jax.pipeline.sheets import grid

prompt = "a red apple"  # @param {type:"string"}
side = 64  # @param {type:"integer"}
steps = 30  # @param {type:"integer"}
seed = 0  # @param {type:"integer"}

cascade = imagen_jax.load_cascade()
base = cascade.first(1)


def paint(texts, **settings):
    """The base's pictures of some texts, from the same noise, guided and clipped at all steps."""
    plain = {"guidance_interval": (0.0, 1.0), "thresholding": "static"}
    settings = {"num_steps": steps, "size": (side, side), "seed": seed} | plain | settings
    return base(texts, progress=False, **settings)


def show(pictures, captions):
    """One row of pictures, each above its caption."""
    return grid([list(pictures)], [[str(caption) for caption in captions]], cell=150)


# %% [markdown]
# ## 1. A text encoder turns words into vectors
#
# The tokenizer cuts the text into pieces that it has in its vocabulary.

# %%
from imagen_jax.stored.encoders import load_stage_tokenizer

config = base.stages[0].config
tokenizer = load_stage_tokenizer(config)
[tokenizer.decode([number]) for number in tokenizer.ids(prompt)]

# %% [markdown]
# The encoder gives one vector for each piece, and one for the end of the text. Texts are filled up
# to the same length, and a mask says which vectors are real.

# %%
embedded = base.embed([prompt])[0]
print("prompts, length, width:", embedded.text.shape)
print("real vectors:", embedded.mask.sum())

# %% [markdown]
# The vectors of a word depend on the words around it, because each piece attends to all others.
# The word `red` has another vector in each of these texts: the cosine between two of its vectors
# is below 1.


# %%
def vectors(text, word):
    """The mean vector of a word in a text."""
    pieces = [tokenizer.decode([number]).strip() for number in tokenizer.ids(text)]
    return base.embed([text])[0].text[0][pieces.index(word)]


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


reds = [vectors(text, "red") for text in ("a red apple", "a red heart", "a red car")]
np.round([[cosine(a, b) for a in reds] for b in reds], 3)

# %% [markdown]
# ### Does the order of words matter?
#
# In language it does: "a dog chases a cat" and "a cat chases a dog" have the same words. T5 knows
# the order by a bias that it adds to its attention, one number for each distance between two
# pieces. The encoder here has that bias too. But it was trained with the cascade on a few thousand
# short captions, in which the order hardly says anything. So look at what it learned: another
# order, another word, and then the colours of two things swapped.


# %%
def compare(texts):
    """The pictures of some texts, and how they and their vectors differ from the first's."""
    embedded = [base.embed([text])[0] for text in texts]
    means = [each.text[0][each.mask[0]].mean(0) for each in embedded]
    pictures = paint(texts).stages[0].astype(int)
    for text, mean, picture in zip(texts, means, pictures, strict=True):
        changed = abs(picture - pictures[0]).mean()
        print(f"{text}: cosine {cosine(mean, means[0]):.4f}, pixels differ by {changed:.2f} of 255")
    return show(pictures.astype(np.uint8), texts)


compare(["a red apple", "apple red a", "a green apple"])

# %%
compare(["a red apple on a green background", "a green apple on a red background"])

# %% [markdown]
# Another order changes almost nothing, and another word changes the picture. Swapped colours give
# the same picture: the encoder has learned a bag of words, so the network must guess which colour
# belongs to what. It could not paint who chases whom, even if the U-Net could.
#
# The paper takes T5-XXL, an encoder that learned from text alone, much more text than there are
# captions, and keeps it frozen. Its figure 4 says that a larger text encoder improved both the
# fit to the text and the pictures more than a larger U-Net did.
#
# This project has asked the same in small, with nine bases of 32 pixels that all saw the same
# pictures. The table says of how many of 50 prompts a judge named the concept first (the best of
# guidance 1, 2 and 4):
#
# | | T5 0.15 million | T5 0.4 million | T5 1.1 million |
# |---|---|---|---|
# | U-Net 0.7 million | 2% | 6% | 14% |
# | U-Net 2.6 million | 0% | 8% | 20% |
# | U-Net 10 million | 6% | 26% | 34% |
#
# Here too a larger encoder adds more than a larger U-Net. A U-Net draws no better what it cannot
# tell apart: the encoder must give different prompts vectors that differ enough. But 50 prompts
# are few, these encoders learned together with their U-Nets, and by the distance from true
# pictures both sizes count alike.
#
# CLIP's text encoder has learned to tell pictures' captions apart, which needs few relations
# between words. People preferred the pictures of T5-XXL to those of CLIP's on the paper's set of
# difficult prompts, DrawBench, though the two scored alike on COCO's simple captions. In small,
# with the U-Net of 2.6 million, a frozen T5 named 30%, and the text encoder of a small CLIP 24%,
# which 50 prompts cannot tell apart. `docs/studies.md` has the commands and all figures.

# %% [markdown]
# ## 2. The forward process: a picture becomes noise
#
# Take a picture x, and noise eps. The noisy picture at time t is z = alpha x + sigma eps, where
# alpha falls from 1 to 0 and sigma rises from 0 to 1, and their squares add up to 1. This is no
# network: it is one line.

# %%
import jax
import jax.numpy as jnp

from imagen_jax.diffusion import process, schedules
from imagen_jax.diffusion.pixels import to_pixels, to_unit

apple = paint([prompt])
times = np.linspace(0, 1, 7)


def noisy(picture, levels, schedule="cosine"):
    """One picture at several times, with the same noise."""
    x = to_unit(jnp.asarray(picture))[None].repeat(len(levels), 0)
    eps = process.normal(jax.random.split(jax.random.key(seed), 1), x.shape[1:])
    return np.asarray(to_pixels(process.q_sample(x, eps, schedules.log_snr(schedule, levels))))


show(noisy(apple.stages[0][0], jnp.asarray(times)), [f"t = {t:.2f}" for t in times])

# %% [markdown]
# The schedule says how fast this goes. The paper's base has the cosine schedule.

# %%
ts = jnp.linspace(0.001, 0.999, 100)
alpha, sigma = schedules.alpha_sigma(schedules.log_snr("cosine", ts))
plt.figure(figsize=(5, 3))
plt.plot(ts, alpha, label="alpha, of the picture")
plt.plot(ts, sigma, label="sigma, of the noise")
plt.xlabel("t")
plt.legend()
plt.show()

# %% [markdown]
# ## 3. The reverse process: noise becomes a picture
#
# The U-Net sees z, t and the text, and estimates the picture x. (The paper's networks predict the
# noise and this cascade's predict x; since z is known, each gives the other.) The sampler takes a
# small step towards the estimate and asks again. A callback hears of every step. The first
# estimate is a blur, near the mean of all pictures of this text, and then details appear.

# %%
estimates = []
final = paint([prompt], callback=lambda progress: estimates.append(progress.estimate[0]))
chosen = np.unique(np.linspace(0, len(estimates) - 1, 7).round().astype(int))
show([estimates[i] for i in chosen], [f"step {i + 1} of {len(estimates)}" for i in chosen])

# %% [markdown]
# ## 4. How the text enters
#
# The text enters the U-Net in two ways. Its vectors are pooled into one, which is added to the
# embedding of the time, so that every block knows what the picture is of. And in some blocks every
# place of the picture attends to the single vectors: it weighs them by how well they fit what is
# there, and adds their weighted sum. These weights can be shown: bright places attend to the word.

# %%
maps = base.word_maps(final, time=0.5, seed=seed)
shown = [word for word in prompt.split() if word not in ("a", "an", "the")]
figure, axes = plt.subplots(1, len(shown) + 1, figsize=(3 * (len(shown) + 1), 3))
axes[0].imshow(final.stages[0][0])
axes[0].set_title(prompt)
for axis, word in zip(axes[1:], shown, strict=True):
    weights = maps.of(word)
    axis.imshow(final.stages[0][0])
    axis.imshow(weights, cmap="inferno", alpha=0.7)
    axis.set_title(f"{word}: {weights.min():.2f} to {weights.max():.2f}")
for axis in axes:
    axis.axis("off")
plt.show()

# %% [markdown]
# ## 5. Guidance makes the text count
#
# In training a tenth of the captions is dropped, so one network knows both: what a picture looks
# like with this text, and what any picture looks like. Guidance takes
# w eps(with text) + (1 - w) eps(without text). At w = 0 the text has no say, at 1 the answer is the
# network's own, and above 1 it leads away from what any picture looks like. Too large a scale
# harms the picture, as the last one shows.

# %%
scales = [0.0, 1.0, 2.0, 4.0, 7.0, 10.0]  # @param {type:"raw"}

guided = [paint([prompt], guidance_scale=w).stages[0][0] for w in scales]
show(guided, [f"w = {w:g}" for w in scales])

# %% [markdown]
# ## 6. Thresholding keeps strong guidance in the range of pictures
#
# A picture lies between -1 and 1. With a large w the estimate of x leaves this range, and the
# error grows from step to step. Static thresholding clips the estimate to the range. Dynamic
# thresholding, which is the paper's, takes a high percentile s of the estimate's size, clips to
# -s and s, and divides by s where s is above 1. The captions say which share of the values is
# stuck at an end of the range.

# %%
strong = 10.0  # @param {type:"number"}

kinds = ["none", "static", "dynamic"]
ends = [
    paint([prompt], guidance_scale=strong, thresholding=kind, percentile=95.0).stages[0][0]
    for kind in kinds
]
stuck = [((picture == 0) | (picture == 255)).mean() for picture in ends]
show(ends, [f"{kind}: {s:.0%} at the ends" for kind, s in zip(kinds, stuck, strict=True)])

# %% [markdown]
# ## 7. Noise conditioning augmentation: do not trust the small picture
#
# The second model enlarges the base's picture. It was trained on true small pictures, and the
# base's are not quite like them. So noise is added to the small picture, in training by a random
# amount, and the network is told how much (`aug_level`). It learns to take the outline from the
# small picture and to paint the details itself. Above: the small picture as the second model sees
# it. Below: what it paints.

# %%
levels = [0.0, 0.1, 0.3, 0.5]  # @param {type:"raw"}
large_steps = 16  # @param {type:"integer"}

two = cascade.first(2)
settings = {"num_steps": [steps, large_steps], "size": (side, side), "seed": seed}
enlarged = [
    two(prompt, aug_level=[0.0, level], progress=False, **settings).stages for level in levels
]
seen = noisy(enlarged[0][0][0], jnp.asarray(levels))
captions = [[f"aug_level {level:g}" for level in levels], ["enlarged"] * len(levels)]
grid([list(seen), [pictures[1][0] for pictures in enlarged]], captions, cell=200)

# %% [markdown]
# ## 8. From 64 to 256 to 1024 pixels
#
# The base decides what is in the picture and where. The second model sharpens the edges and paints
# what 64 pixels cannot hold. The third one, which has no self-attention since the picture is too
# large for it, sharpens once more. Above: the three pictures. Below: the same part of each.

# %%
largest_steps = 8  # @param {type:"integer"}

settings = {"num_steps": [steps, large_steps, largest_steps], "size": (side, side), "seed": seed}
whole = [stage[0] for stage in cascade(prompt, progress=False, **settings).stages]


def part(picture):
    """A quarter of a picture's height and width, left of the middle and above it."""
    height, width = (length // 8 for length in picture.shape[:2])
    return picture[height : 3 * height, 2 * width : 4 * width]


sizes = [f"{picture.shape[1]} pixels" for picture in whole]
grid([whole, [part(picture) for picture in whole]], [sizes, ["a part"] * len(whole)], cell=300)

# %% [markdown]
# The equations beside the code that computes them are in `docs/concepts.md`, and what differs from
# the paper in `docs/model_card.md`.
