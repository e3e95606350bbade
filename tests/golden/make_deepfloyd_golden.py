"""Writes `tests/golden/deepfloyd_if`: two tiny stages, and what diffusers makes of them.

    python tests/golden/make_deepfloyd_golden.py

Needs torch, transformers and diffusers. `stage_1` and `stage_2` are random pipelines in the shape
of DeepFloyd IF's stages I and II, in directories as diffusers saves them: stage I in float32,
stage II in float16 and in shards. `expected.safetensors` holds, for each stage,

- `<stage>.network.*`: inputs of the U-Net, its output, and the projected and the pooled text;
- `<stage>.pipeline.*`: ten guided steps of the pipeline from two prompts, with all noise that
  it drew: of the first picture, of the low-resolution picture (stage II), and of each step.
"""

import json
import shutil
from pathlib import Path

import diffusers
import safetensors.torch
import torch
from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline, UNet2DConditionModel
from transformers import T5Config, T5EncoderModel, T5Tokenizer

DIRECTORY = Path(__file__).parent / "deepfloyd_if"
VOCABULARY = Path(__file__).parents[2] / "imagen_jax" / "text" / "captions.model"
PROMPTS = ["A red apple ", "two green dragons and a slice of pizza"]
TEXT_WIDTH = 32
STEPS = 10

SHARED = dict(
    act_fn="gelu",
    addition_embed_type="text",
    addition_embed_type_num_heads=4,
    attention_head_dim=8,
    cross_attention_norm="group_norm",
    encoder_hid_dim=TEXT_WIDTH,
    mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    norm_num_groups=8,
    out_channels=6,
    resnet_time_scale_shift="scale_shift",
)
"""As published, but for 64 heads of 64, 32 groups and a text width of 4096."""
RESNET, ATTENTION = ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D")
STAGE_1 = dict(
    block_out_channels=(8, 16, 24, 32),
    cross_attention_dim=64,
    down_block_types=(RESNET, *3 * [ATTENTION]),
    in_channels=3,
    layers_per_block=2,
    sample_size=16,
    up_block_types=(*3 * ["SimpleCrossAttnUpBlock2D"], "ResnetUpsampleBlock2D"),
)
STAGE_2 = dict(
    block_out_channels=(8, 16, 24, 32, 40),
    class_embed_type="timestep",
    cross_attention_dim=64,
    down_block_types=(*3 * [RESNET], *2 * [ATTENTION]),
    in_channels=6,
    layers_per_block=[1, 1, 2, 2, 2],
    mid_block_scale_factor=1.4142135623730951,
    resnet_out_scale_factor=1.4142135623730951,
    resnet_skip_time_act=True,
    sample_size=32,
    time_embedding_act_fn="gelu",
    time_embedding_dim=64,
    up_block_types=(*2 * ["SimpleCrossAttnUpBlock2D"], *3 * ["ResnetUpsampleBlock2D"]),
)


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Moves all norms and biases off their starting values, which would hide mistakes."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def unet(**sizes) -> UNet2DConditionModel:
    return randomise(UNet2DConditionModel(**{**SHARED, **sizes}))


def scheduler(sample_max_value: float) -> DDPMScheduler:
    """As published for the two stages, which differ in the cap of the thresholding."""
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        dynamic_thresholding_ratio=0.95,
        sample_max_value=sample_max_value,
        thresholding=True,
        variance_type="learned_range",
    )


def text_parts() -> dict:
    """A tiny T5 v1.1 encoder that reads the package's own vocabulary."""
    config = T5Config(
        vocab_size=2048, d_model=TEXT_WIDTH, d_kv=8, d_ff=40, num_layers=1, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    folder = DIRECTORY / "tokenizer"
    folder.mkdir(parents=True)
    shutil.copy(VOCABULARY, folder / "spiece.model")
    tokenizer = T5Tokenizer.from_pretrained(folder)
    shutil.rmtree(folder)
    return {"text_encoder": randomise(T5EncoderModel(config)), "tokenizer": tokenizer}


def pipelines() -> dict[str, IFPipeline | IFSuperResolutionPipeline]:
    nothing = {
        "safety_checker": None, "feature_extractor": None, "watermarker": None,
        "requires_safety_checker": False,
    }  # fmt: skip
    shared = {**text_parts(), **nothing}
    return {
        "stage_1": IFPipeline(unet=unet(**STAGE_1), scheduler=scheduler(1.5), **shared),
        "stage_2": IFSuperResolutionPipeline(
            unet=unet(**STAGE_2).half().float(),  # as it is stored
            scheduler=scheduler(1.0),
            image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
            **shared,
        ),
    }


def save(pipeline, directory: Path) -> None:
    """Writes the directory; stage II as users have it, in half precision and without a T5."""
    if directory.name == "stage_1":
        pipeline.save_pretrained(directory)
        # All that transformers saves of a tokenizer it can read, but not its vocabulary.
        shutil.rmtree(directory / "tokenizer")
        (directory / "tokenizer").mkdir()
        shutil.copy(VOCABULARY, directory / "tokenizer" / "spiece.model")
    else:
        half = pipeline.unet.half()
        half.save_pretrained(directory / "unet", variant="fp16", max_shard_size="600KB")
        pipeline.unet.float()
        pipeline.scheduler.save_pretrained(directory / "scheduler")
        pipeline.image_noising_scheduler.save_pretrained(directory / "image_noising_scheduler")
        pipeline.save_config(directory)
    for file in directory.rglob("*.json"):  # where this was made does not belong into it
        content = json.loads(file.read_text())
        content.pop("_name_or_path", None)
        file.write_text(json.dumps(content, indent=2) + "\n")


def network(model: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """The U-Net alone on random inputs: two pictures at different steps."""
    side = model.config.sample_size
    inputs = {
        "sample": torch.randn(2, model.config.in_channels, side, side),
        "timestep": torch.tensor([980, 17]),
        "encoder_hidden_states": torch.randn(2, 77, TEXT_WIDTH),
    }
    if model.config.class_embed_type == "timestep":
        inputs["class_labels"] = torch.tensor([250, 3])
    text = inputs["encoder_hidden_states"]
    with torch.no_grad():
        results = {
            "output": model(**inputs).sample,
            "projected": model.encoder_hid_proj(text),
            "pooled": model.add_embedding(text),
        }
    return inputs | results


def trajectory(pipeline, **inputs) -> dict[str, torch.Tensor]:
    """The pipeline's pictures, and all noise that it drew, in the order of the draws."""
    drawn = []

    def draw(shape, *_, **__) -> torch.Tensor:
        drawn.append(torch.randn(shape))
        return drawn[-1]

    modules = (diffusers.schedulers.scheduling_ddpm, _module(pipeline))
    originals = [module.randn_tensor for module in modules]
    try:
        for module in modules:
            module.randn_tensor = draw
        pictures = pipeline(
            prompt=PROMPTS, num_inference_steps=STEPS, clean_caption=False, output_type="pt",
            **inputs,
        ).images  # fmt: skip
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.randn_tensor = original
    results = {"pictures": pictures, "initial": drawn.pop(0)}
    if inputs:
        results["augmentation"] = drawn.pop(0)
    return results | {"steps": torch.stack(drawn)}


def _module(pipeline):
    name = type(pipeline).__module__.rpartition(".")[2]
    return getattr(diffusers.pipelines.deepfloyd_if, name)


def main() -> None:
    """Writes the files; the same ones every time."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    stages = pipelines()
    low_res = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    tensors = {"stage_2.pipeline.low_res": low_res}
    for name, pipeline in stages.items():
        pipeline.set_progress_bar_config(disable=True)
        inputs = {"image": low_res.float() / 127.5 - 1} if name == "stage_2" else {}
        parts = {"network": network(pipeline.unet), "pipeline": trajectory(pipeline, **inputs)}
        for part, results in parts.items():
            tensors |= {f"{name}.{part}.{key}": x.contiguous() for key, x in results.items()}
        save(pipeline, DIRECTORY / name)
    safetensors.torch.save_file(tensors, DIRECTORY / "expected.safetensors")


if __name__ == "__main__":
    main()
