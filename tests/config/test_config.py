"""Configs: their rules, and the way through JSON."""

import dataclasses
import json
import math
import re

import pytest
import tiny
from scripts import train

from imagen_jax.config import (
    DataConfig,
    DiffusionConfig,
    DistillationConfig,
    EfficientUNetConfig,
    MeshConfig,
    OptimizerConfig,
    SamplingConfig,
    StageConfig,
    T5Config,
    TextEncoderConfig,
    TrainingConfig,
    UNetConfig,
    UNetVariant,
    json_form,
)
from imagen_jax.config.python_file import known_configs
from imagen_jax.errors import UsageError

pytestmark = pytest.mark.usefixtures("no_type_checks")

BAD_FIELDS = [
    (UNetConfig, {"dtype": "float16"}, "float16"),
    (UNetConfig, {"embed_dim": 0}, "embed_dim is 0"),
    (UNetConfig, {"head_dim": -1}, "head_dim is -1"),
    (UNetConfig, {"patch_size": 0}, "patch_size is 0"),
    (UNetConfig, {"norm_groups": 0}, "norm_groups is 0"),
    (UNetConfig, {"embed_dim": 2}, "embed_dim is 2"),
    (UNetConfig, {"embed_dim": 33}, "embed_dim is 33"),
    (UNetConfig, {"num_res_blocks": (3, 0, 3, 3)}, "num_res_blocks is (3, 0, 3, 3)"),
    (UNetConfig, {"channel_mult": (1, 2, -3, 4)}, "channel_mult is (1, 2, -3, 4)"),
    (UNetConfig, {"remat": ("full",)}, "remat has 1 entries"),
    (UNetConfig, {"remat": ("half",) * 4}, "remat has 'half'"),
    (UNetConfig, {"channel_mult": (1, 2)}, "2 channel multipliers and 4 residual-block counts"),
    (UNetConfig, {"channel_mult": (), "num_res_blocks": ()}, "0 channel multipliers"),
    (EfficientUNetConfig, {"dtype": "int8"}, "int8"),
    (EfficientUNetConfig, {"num_heads": 0}, "num_heads is 0"),
    (EfficientUNetConfig, {"patch_size": 0}, "patch_size is 0"),
    (EfficientUNetConfig, {"num_res_blocks": (1,)}, "num_res_blocks has 1 entries"),
    (EfficientUNetConfig, {"strides": (2,)}, "strides has 1 entries"),
    (EfficientUNetConfig, {"strides": (2, 2, 2, 3)}, "each stride must be 1 or 2"),
    (EfficientUNetConfig, {"self_attention": ()}, "self_attention has 0 entries"),
    (EfficientUNetConfig, {"text_attention": ()}, "text_attention has 0 entries"),
    (EfficientUNetConfig, {"channels": (2, 4, 8, 8)}, "channels[0] is 2"),
    (EfficientUNetConfig, {"channels": (128, 0, 512, 1024)}, "channels is (128, 0, 512, 1024)"),
    (EfficientUNetConfig, {"num_res_blocks": (2, 0, 8, 8)}, "num_res_blocks is (2, 0, 8, 8)"),
    (EfficientUNetConfig, {"num_heads": 7}, "must divide twice the channels"),
    (EfficientUNetConfig, {"text_attention": (False,) * 4}, "self_attention[3] is on"),
    (T5Config, {"relative_attention_num_buckets": 3}, "num_buckets is 3"),
    (T5Config, {"vocab_size": 0}, "vocab_size is 0"),
    (T5Config, {"feed_forward": "gelu"}, "feed_forward is 'gelu'; it must be one of gated-gelu"),
    (T5Config, {"dtype": "float16"}, "dtype is 'float16'"),
    (T5Config, {"remat": "ful"}, "remat is 'ful'; it must be one of none, selective, full"),
    (T5Config, {"num_heads": -2}, "num_heads is -2"),
    (TextEncoderConfig, {"max_length": 0}, "max_length is 0"),
    (TextEncoderConfig, {"train": True, "source": "x"}, "source is 'x'"),
    (DiffusionConfig, {"schedule": "sqrt"}, "sqrt"),
    (DiffusionConfig, {"prediction": "noise"}, "noise"),
    (DiffusionConfig, {"max_aug_level": 1.5}, "max_aug_level is 1.5"),
    (DiffusionConfig, {"min_snr_gamma": 0.0}, "min_snr_gamma is 0.0"),
    (DiffusionConfig, {"min_snr_gamma": 5.0, "sigmoid_bias": -3.0}, "has one of these weights"),
    (DiffusionConfig, {"sigmoid_bias": 99.0}, "sigmoid_bias is 99.0; it is a log-SNR"),
    (DiffusionConfig, {"sigmoid_bias": -1.0, "schedule": "cosine_chain"}, "in continuous time"),
    (DiffusionConfig, {"schedule": "linear_to_zero"}, "it gives no picture: predict v or x0"),
    (DistillationConfig, {"steps": 0}, "steps is 0"),
    (DistillationConfig, {"steps": 10**7}, "steps is 10000000; it must be at most 1,000,000"),
    (SamplingConfig, {"guidance_max_norm": 0.0}, "guidance_max_norm is 0.0"),
    (SamplingConfig, {"guidance_momentum": -1.0}, "guidance_momentum is -1.0; it must lie in (-1"),
    (SamplingConfig, {"guidance_momentum": 0.5}, "guidance_momentum is 0.5; it must lie in (-1"),
    (SamplingConfig, {"renoising": "all"}, "renoising is 'all'; it must be one of"),
    (SamplingConfig, {"renoising": "unguided"}, "is put back by ddim alone"),
    (
        SamplingConfig,
        {"renoising": "unguided", "sampler": "ddim", "guidance_scale": 1.5},
        "guidance_scale 1.5; with it weights lie between 0 and 1",
    ),
    (TrainingConfig, {"batch_size": 2**21}, "batch_size is 2097152; it must be at most 1,048,576"),
    (TrainingConfig, {"num_steps": 2**31}, "num_steps is 2147483648; it must be at most"),
    (DataConfig, {"num_workers": -1}, "num_workers is -1"),
    (DataConfig, {"num_workers": 1025}, "num_workers is 1025; it must be at most 1,024"),
    (DataConfig, {"low_res_blur": -1.0}, "low_res_blur is -1.0; it must not be negative"),
    (DataConfig, {"low_res_blotches": 256.0}, "low_res_blotches is 256.0; it must be at most 255"),
    (DataConfig, {"crop": 2**16}, "crop is 65536; it must be at most 32,768"),
    (DataConfig, {"crop": 0}, "crop is 0"),
    (DataConfig, {"max_broken_share": 1.5}, "max_broken_share is 1.5"),
    (DataConfig, {"filters": ("side",)}, "data.filters has 'side'"),
    (DataConfig, {"mixture": ("folder:a",)}, "data.mixture has 'folder:a'"),
    (TrainingConfig, {"seed": -1}, "seed is -1"),
    (OptimizerConfig, {"learning_rate": 0.0}, "learning_rate is 0.0"),
    (OptimizerConfig, {"learning_rate": float("nan")}, "learning_rate is nan"),
    (OptimizerConfig, {"ema_decay": 1.1}, "ema_decay is 1.1"),
    (OptimizerConfig, {"power_ema": (0.1, 0.1)}, "lengths must differ and lie between 0.01"),
    (OptimizerConfig, {"power_ema": (0.3,)}, "lengths must differ and lie between 0.01"),
    (OptimizerConfig, {"warmup_steps": -1}, "warmup_steps is -1"),
    (OptimizerConfig, {"decay_steps": 0}, "decay_steps is 0"),
    (OptimizerConfig, {"clip_global_norm": 0.0}, "clip_global_norm is 0.0"),
    (OptimizerConfig, {"name": "sgd"}, "sgd"),
    (OptimizerConfig, {"moment_dtype": "int8"}, "int8"),
    (TrainingConfig, {"batch_size": 0}, "batch_size is 0"),
    (TrainingConfig, {"accumulation_steps": 0}, "accumulation_steps is 0"),
    (TrainingConfig, {"num_steps": 0}, "num_steps is 0"),
    (TrainingConfig, {"log_every": 0}, "log_every is 0"),
    (TrainingConfig, {"checkpoint_every": 0}, "checkpoint_every is 0"),
    (TrainingConfig, {"keep_checkpoints": 0}, "keep_checkpoints is 0"),
    (TrainingConfig, {"sample_every": -1}, "sample_every is -1"),
    (TrainingConfig, {"caption_dropout": -0.1}, "caption_dropout is -0.1"),
    (TrainingConfig, {"batch_size": 10, "accumulation_steps": 4}, "batch_size is 10"),
    (SamplingConfig, {"sampler": "euler"}, "euler"),
    (SamplingConfig, {"thresholding": "soft"}, "soft"),
    (SamplingConfig, {"num_steps": 0}, "num_steps is 0"),
    (SamplingConfig, {"gamma": 2.0}, "gamma is 2.0"),
    (SamplingConfig, {"eta": -1.0}, "eta is -1.0"),
    (SamplingConfig, {"aug_level": 1.01}, "aug_level is 1.01"),
    (SamplingConfig, {"percentile": 0.0}, "percentile is 0.0"),
    (SamplingConfig, {"percentile": 100.5}, "percentile is 100.5"),
    (MeshConfig, {"fsdp": -1}, "fsdp is -1"),
    (DataConfig, {"sizes": ((16, 0),)}, "data.sizes has 16x0"),
    (DataConfig, {"sizes": ((-16, 16),)}, "data.sizes has -16x16"),
    (DataConfig, {"sizes": ((16, 10**9),)}, "data.sizes has 16x1000000000; height and width must"),
    (DataConfig, {"sizes": ((16, 8), (32, 16))}, "data.sizes has 16x8 and 32x16; their ratios"),
    (DataConfig, {"sizes": tuple((1, n + 1) for n in range(256))}, "data.sizes has 256 sizes"),
]
BAD_STAGES = [
    ({"resolution": 0}, "resolution is 0"),
    ({"resolution": 15}, "resolution is 15; the U-Net of 'tiny' needs a multiple of 2"),
    ({"data": {"crop": 7}}, "data.crop is 7; the U-Net of 'tiny' needs a multiple of 2"),
    (
        {"unet": {"attention_resolutions": (16, 6)}},
        r"attention_resolutions is \(16, 6\); at resolution 16 the levels have 8, so none would",
    ),
    ({"low_resolution": 0}, "low_resolution is 0"),
    ({"data": {"low_res_blur": 1.0}}, "data.low_res_blur is 1.0 and low_resolution is None"),
    ({"low_resolution": 5}, "low_resolution is 5; it must divide 16"),
    ({"low_resolution": 4, "data": {"crop": 6}}, "data.crop is 6; it must be a multiple"),
    ({"data": {"sizes": ((16, 15),)}}, "data.sizes has 16x15; .* of 'tiny' needs multiples of 2"),
    (
        {"low_resolution": 2, "data": {"sizes": ((16, 12),)}},
        "data.sizes has 16x12; .* needs multiples of 8",
    ),
    ({"data": {"sizes": ((16, 16),), "crop": 8}}, "data.crop is 8 and data.sizes 16x16"),
]


@pytest.mark.parametrize(("kind", "fields", "says"), BAD_FIELDS)
def test_a_bad_value_is_refused_by_name(kind, fields, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        kind(**fields)


@pytest.mark.parametrize(("changes", "says"), BAD_STAGES)
def test_sizes_that_do_not_fit_are_refused(changes, says):
    with pytest.raises(UsageError, match=says):
        tiny.stage(**changes)


@pytest.mark.parametrize("config", [tiny.stage(), tiny.super_resolution()], ids=["base", "sr"])
def test_json_round_trip(config):
    data = {"filters": ("side>=8", "similarity>=0.3"), "mixture": ("0.7*folder:a", "1*b/c")}
    data["sizes"] = ((16, 16), (8, 24))
    prompts = {"sample_prompts": ("a cat", "ein Äpfelchen")}
    config = tiny.replace(config, training=prompts, data=data)
    assert json_form.from_json(json_form.to_json(config), "here") == config


def test_mixture_and_filters_are_flags():
    flags = ["--data.mixture", "0.7*webdataset:a/*.tar", "0.3*folder:b"]
    flags += ["--data.filters", "side>=8", "aspect<=2"]
    data = train.parse(["tiny_64", "--workdir", "x", *flags]).config.data
    assert [share.weight for share in data.shares] == [0.7, 0.3]
    assert [str(condition) for condition in data.conditions] == ["side>=8", "aspect<=2"]


def test_sizes_are_flags():
    flags = ["tiny_64", "--workdir", "x", "--data.sizes", "64", "64", "48", "80"]
    assert train.parse(flags).config.data.sizes == ((64, 64), (48, 80))


def changed(*path, value):
    """JSON of the tiny stage with one value put at a path."""
    document = json.loads(json_form.to_json(tiny.stage()))
    part = document
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "JSON"),
        ("[]", "origin.json: the config"),
        (changed("colour", value=1), "colour"),
        (changed("training", "batchsize", value=1), "training.batchsize"),
        (changed("training", "num_steps", value="many"), "training.num_steps"),
        (changed("training", "num_steps", value=1.5), "training.num_steps"),
        (changed("training", "num_steps", value=0), "num_steps is 0; it must be positive"),
        (changed("unet", "kind", value="transformer"), "transformer"),
        (changed("unet", "channels", value=[1]), "channels"),
        (changed("diffusion", "prediction", value="noise"), "prediction"),
        (changed("name", value=None), "name"),
        (changed("unet", "num_res_blocks", value=[2**31]), "num_res_blocks is 2147483648; it must"),
        (changed("unet", "embed_dim", value=10**30), "embed_dim is 10{30}; it must be at most"),
        (changed("unet", "variant", "residual_scale", value=1e999), "residual_scale"),
        (changed("resolution", value=2**40), "resolution is 1099511627776; it must be at most"),
        (changed("text_encoder", "max_length", value=2**62), "max_length is .* at most 65,536"),
        (changed("text_encoder", "t5", "num_layers", value=10**8), "num_layers is 100000000; it"),
        (changed("sampling", "num_steps", value=10**12), "num_steps is 1000000000000; it must be"),
        (changed("sampling", "max_threshold", value=1e999), "max_threshold"),
    ],
)
def test_broken_json_is_refused_with_file_and_field(text, says):
    with pytest.raises(UsageError, match=says) as caught:
        json_form.from_json(text, "origin.json")
    assert str(caught.value).startswith("origin.json: ")


def test_files_of_before_have_the_variant_among_the_networks_own_fields():
    varied = {"activation": "gelu", "predicts_variance": True, "embedding_dim": 24}
    config = tiny.stage(unet={"variant": varied}, diffusion={"schedule": "cosine_chain"})
    document = json.loads(json_form.to_json(config))
    document["unet"] |= document["unet"].pop("variant")
    assert json_form.from_json(json.dumps(document), "origin.json") == config
    document["unet"]["activations"] = "gelu"
    with pytest.raises(UsageError, match="activations"):
        json_form.from_json(json.dumps(document), "origin.json")


def test_a_missing_field_is_named():
    document = json.loads(json_form.to_json(tiny.stage()))
    del document["resolution"]
    with pytest.raises(UsageError, match="resolution"):
        json_form.from_json(json.dumps(document), "origin.json")


def test_configs_do_not_change_after_construction():
    config = tiny.stage()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.resolution = 32


def test_size_divisor_and_upscale_are_products_and_quotients():
    assert UNetConfig().size_divisor == 8
    assert UNetConfig(patch_size=4).size_divisor == 32
    assert EfficientUNetConfig().size_divisor == 16
    assert EfficientUNetConfig(strides=(1, 2, 1, 2), patch_size=3).size_divisor == 12
    assert tiny.stage().upscale == 1
    assert tiny.super_resolution().upscale == 2


@pytest.mark.parametrize("name", known_configs())
def test_every_config_that_is_named_can_be_loaded(name):
    config = train.load_config(name)
    assert config.name == name or "/" in name  # Those are sizes of one stage.
    assert json_form.from_json(json_form.to_json(config), "here") == config


def test_the_emoji_stages_fit_each_other():
    names = ("emoji_base_64", "emoji_sr_256", "emoji_sr_1024")
    base, middle, last = map(train.load_config, names)
    assert (base.low_resolution, base.resolution) == (None, 64)
    assert (middle.low_resolution, middle.resolution) == (64, 256)
    assert (last.low_resolution, last.resolution) == (256, 1024)
    encoders = {(stage.text_encoder.t5, stage.text_encoder.tokenizer) for stage in (middle, last)}
    assert encoders == {(base.text_encoder.t5, base.text_encoder.tokenizer)}


def test_the_defaults_are_the_papers():
    """Appendix F.1: 64x64, 512 channels, multipliers 1 to 4, three blocks, Adafactor, 1e-4."""
    config = StageConfig(name="paper", resolution=64, unet=UNetConfig())
    assert (config.unet.embed_dim, config.unet.channel_mult) == (512, (1, 2, 3, 4))
    assert (config.unet.num_res_blocks, config.unet.attention_resolutions) == (
        (3,) * 4,
        (32, 16, 8),
    )
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("adafactor", 1e-4)
    assert (config.optimizer.warmup_steps, config.training.batch_size) == (10_000, 2048)
    assert (config.training.num_steps, config.training.caption_dropout) == (2_500_000, 0.1)


def _numbers():
    """Every field of every config that holds a float, or several."""
    configs = [
        UNetVariant(), DiffusionConfig(min_snr_gamma=5.0), OptimizerConfig(), TrainingConfig(),
        SamplingConfig(max_threshold=2.0), DataConfig(),
    ]  # fmt: skip
    for config in configs:
        for field in dataclasses.fields(config):
            if isinstance(getattr(config, field.name), float):
                yield pytest.param(config, field.name, id=f"{type(config).__name__}.{field.name}")


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e39])
@pytest.mark.parametrize(("config", "name"), list(_numbers()))
def test_a_number_that_is_none_is_refused_wherever_it_stands(config, name, number):
    """1e39 is infinite in float32, which all of them become."""
    with pytest.raises(UsageError, match=rf"{type(config).__name__}\.{name} is .*(inf|nan|1e\+39)"):
        dataclasses.replace(config, **{name: number})


def test_there_are_numbers_in_all_parts():
    names = {str(parameter.id).split(".")[0] for parameter in _numbers()}
    assert len(names) == 6
