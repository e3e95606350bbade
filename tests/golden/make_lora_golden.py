"""Writes `tests/golden/deepfloyd_lora`: a LoRA file of diffusers for a tiny stage I, and what it
makes of it.

    python tests/golden/make_lora_golden.py

Needs torch, transformers, diffusers and peft. The adapter is random, of rank 3, on the attention of
the U-Net in `tests/golden/deepfloyd_if/stage_1`, as diffusers' DreamBooth recipe adapts it.
`lora.safetensors` is what its pipeline's `save_lora_weights` wrote. `expected.safetensors` holds
the output of the network with the adapter, of the inputs in `deepfloyd_if/expected.safetensors`.
"""

import tempfile
from pathlib import Path

import safetensors.torch
import torch
from diffusers import IFPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

GOLDEN = Path(__file__).parent
OUT = GOLDEN / "deepfloyd_lora"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj"]
WRITTEN = "pytorch_lora_weights.safetensors"


def main() -> None:
    torch.manual_seed(0)
    stage = GOLDEN / "deepfloyd_if" / "stage_1" / "unet"
    unet = UNet2DConditionModel.from_pretrained(stage).eval()
    unet.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=TARGETS))
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    factors = get_peft_model_state_dict(unet)
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        IFPipeline.save_lora_weights(directory, unet_lora_layers=factors)
        (OUT / "lora.safetensors").write_bytes(Path(directory, WRITTEN).read_bytes())
    inputs = safetensors.torch.load_file(GOLDEN / "deepfloyd_if" / "expected.safetensors")
    names = ("sample", "timestep", "encoder_hidden_states")
    arguments = {name: inputs[f"stage_1.network.{name}"] for name in names}
    with torch.no_grad():
        output = unet(**arguments).sample
    safetensors.torch.save_file({"output": output}, OUT / "expected.safetensors")


if __name__ == "__main__":
    main()
