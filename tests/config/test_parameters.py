"""Every config of the paper's size has the number of parameters that its docs say."""

import functools
import json
import sys
from pathlib import Path

import pytest
from paper_counts import attention, blocks, conv, embeddings, paper_base, res_block
from scripts import tool

KEPT = Path(__file__).parents[2] / "docs" / "parameters.json"
T5 = {
    "small": 35_332_800,
    "base": 109_628_544,
    "large": 341_231_104,
    "xl": 1_223_527_424,
    "xxl": 4_762_310_656,
}
"""Of transformers' T5EncoderModel at the published T5 v1.1 sizes."""
CLIP_L14 = 49408 * 768 + 77 * 768 + 12 * (4 * 768**2 + 8 * 768**2 + 13 * 768) + 2 * 768
"""Of transformers' CLIPTextModel at ViT-L/14: tokens, places, twelve blocks, the last norm."""
CHANNELS, TEXT = (128, 256, 512, 1024), 4096


def super_resolution(self_attention, attentions=2):
    """Appendix F.2 and F.3 as written, from the architecture on paper."""
    ends = conv(3, 6, 128) + 2 * 128 + conv(3, 128, 3)
    listing = blocks(CHANNELS, (2, 4, 8, 8), TEXT, self_attention)
    more = (attentions - 2) * attention(1024, 2048, TEXT, self_attention)
    return embeddings(128, TEXT, scalars=2) + ends + listing + more


def fifth_block():
    """Eight more residual blocks, one convolution and one attention each way."""
    one_way = conv(3, 1024, 1024) + 8 * res_block(1024, 1024, 512) + attention(1024, 2048, TEXT)
    return super_resolution(self_attention=True) + 2 * one_way


UNETS = {
    "base_64": lambda: paper_base(TEXT),
    "sr_256": lambda: super_resolution(self_attention=True),
    "sr_1024": lambda: super_resolution(self_attention=False),
    "sr_256_attention_per_block": lambda: super_resolution(self_attention=True, attentions=16),
    "sr_1024_attention_per_block": lambda: super_resolution(self_attention=False, attentions=16),
    "sr_256_fifth_block": fifth_block,
}


@pytest.fixture(scope="module")
def counts():
    """Config -> (U-Net, text encoder), traced."""
    table = tool("parameter_table")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", sys.path[:])  # Reading a config file adds to it.
        yield functools.cache(table.counts)


@pytest.fixture(scope="module")
def all_counts(counts):
    return {name: counts(name) for name in tool("parameter_table").CONFIGS}


@pytest.mark.slow
def test_the_table_in_the_docs_is_what_the_configs_have(all_counts):
    rows = json.loads(KEPT.read_text())["stages"]
    assert [row["config"] for row in rows] == [*all_counts]
    assert [(row["U-Net"], row["text encoder"]) for row in rows] == [*all_counts.values()]


@pytest.mark.slow
def test_the_table_of_deepfloyd_if_is_what_its_configs_have():
    rows = json.loads(KEPT.read_text())["deepfloyd_if"]
    assert len(rows) == 5 + 1 and rows == tool("parameter_table").deepfloyd_if()


@pytest.mark.parametrize(
    "name",
    ["base_64", "sr_256", "sr_1024"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in [*UNETS][3:]],
)
def test_unets_have_as_many_parameters_as_their_description(counts, name):
    assert counts(name)[0] == UNETS[name]()


def test_the_page_says_what_convolutions_beside_all_blocks_would_add():
    """Of an Efficient U-Net, whose blocks, as many going up, have equal widths on both sides."""
    added = 2 * sum(n * conv(1, c, c) for n, c in zip((2, 4, 8, 8), CHANNELS, strict=True))
    assert f"would add {added / 1e6:.0f}M" in KEPT.with_name("parameters.md").read_text()


@pytest.mark.slow
def test_encoders_have_the_published_sizes(all_counts):
    for name, (_, encoder) in all_counts.items():
        size = name.rpartition("_t5_")[2] if "_t5_" in name else "xxl"
        assert encoder == (CLIP_L14 if name.endswith("_clip_l14") else T5[size])


@pytest.mark.slow
def test_the_ablations_are_near_the_sizes_they_are_named_after(all_counts):
    for name, size in {"300m": 300e6, "500m": 500e6, "1b": 1e9}.items():
        assert abs(all_counts[f"base_64_{name}"][0] / size - 1) < 0.06
