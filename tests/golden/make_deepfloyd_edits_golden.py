"""Writes `tests/golden/deepfloyd_if/edits.safetensors`: what diffusers edits with two tiny stages.

    python tests/golden/make_deepfloyd_edits_golden.py

Needs torch and diffusers, and the stages that make_deepfloyd_golden.py wrote. The file holds text
embeddings of two prompts and of none, two pictures and a mask for each stage, and as
`<stage>.<edit>.*` what img2img and inpainting made of them, with all noise that was drawn.
"""

from pathlib import Path

import diffusers
import safetensors.torch
import torch
from diffusers import (
    DDPMScheduler,
    IFImg2ImgPipeline,
    IFImg2ImgSuperResolutionPipeline,
    IFInpaintingPipeline,
    IFInpaintingSuperResolutionPipeline,
    UNet2DConditionModel,
)

DIRECTORY = Path(__file__).parent / "deepfloyd_if"
STEPS = 10
PIPELINES = {
    ("stage_1", "img2img"): IFImg2ImgPipeline,
    ("stage_1", "inpainting"): IFInpaintingPipeline,
    ("stage_2", "img2img"): IFImg2ImgSuperResolutionPipeline,
    ("stage_2", "inpainting"): IFInpaintingSuperResolutionPipeline,
}
STRENGTH = {"img2img": 0.7, "inpainting": 0.9}
NOTHING = dict.fromkeys(
    ["tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker"]
)


def open_pipeline(stage: str, kind: type):
    """The pipeline without what reads text; stage II as it is stored, in half precision."""
    directory = DIRECTORY / stage
    half = {"variant": "fp16", "torch_dtype": torch.float16} if stage == "stage_2" else {}
    unet = UNet2DConditionModel.from_pretrained(directory / "unet", **half).float().eval()
    parts = {"scheduler": DDPMScheduler.from_pretrained(directory / "scheduler")}
    if stage == "stage_2":
        noising = DDPMScheduler.from_pretrained(directory / "image_noising_scheduler")
        parts["image_noising_scheduler"] = noising
    pipeline = kind(unet=unet, **parts, **NOTHING, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawing(pipeline, call) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What `call` returns, and all noise that is drawn meanwhile, in the order of the draws."""
    drawn = []

    def draw(shape, *_, **__) -> torch.Tensor:
        drawn.append(torch.randn(shape))
        return drawn[-1]

    name = type(pipeline).__module__.rpartition(".")[2]
    own = getattr(diffusers.pipelines.deepfloyd_if, name)
    modules = (diffusers.schedulers.scheduling_ddpm, own)
    originals = [module.randn_tensor for module in modules]
    try:
        for module in modules:
            module.randn_tensor = draw
        return call(), drawn
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.randn_tensor = original


def edited(stage: str, edit: str, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The pictures of an edit, and its noise: the first, of what is enlarged, and of the steps."""
    pipeline = open_pipeline(stage, PIPELINES[stage, edit])
    picture = given[f"{stage}.picture"].float() / 127.5 - 1
    arguments = {"image": picture}
    if stage == "stage_2":
        low_res = given["stage_1.picture"].float() / 127.5 - 1
        arguments = {"image": low_res, "original_image": picture}
    if edit == "inpainting":
        arguments["mask_image"] = given[f"{stage}.mask"].float()[None]
    text = {name: given[name] for name in ("prompt_embeds", "negative_prompt_embeds")}
    asked = {"num_inference_steps": STEPS, "strength": STRENGTH[edit], "output_type": "pt"}
    call = lambda: pipeline(**arguments, **text, **asked).images  # noqa: E731
    pictures, drawn = drawing(pipeline, call)
    results = {"pictures": pictures, "initial": drawn.pop(0)}
    if stage == "stage_2":
        results["augmentation"] = drawn.pop(0)
    return results | {"steps": torch.stack(drawn)}


def main() -> None:
    """Writes the file; the same one every time."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    given = {
        "prompt_embeds": torch.randn(2, 77, 32),
        "negative_prompt_embeds": torch.randn(1, 77, 32).repeat(2, 1, 1),
    }
    for stage, side in (("stage_1", 16), ("stage_2", 32)):
        given[f"{stage}.picture"] = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
        given[f"{stage}.mask"] = torch.zeros(1, side, side, dtype=torch.uint8)
        given[f"{stage}.mask"][:, side // 4 :, : side // 2] = 1
    tensors = dict(given)
    for stage, edit in PIPELINES:
        results = edited(stage, edit, given)
        tensors |= {f"{stage}.{edit}.{name}": x.contiguous() for name, x in results.items()}
    safetensors.torch.save_file(tensors, DIRECTORY / "edits.safetensors")


if __name__ == "__main__":
    main()
