"""Writes `tests/golden/inception`: what pytorch-fid's network makes of weights drawn by rule.

    pip install torch torchvision pytorch-fid
    python tests/golden/make_inception_golden.py

`shapes.json.xz` holds name and shape of each tensor of the published file; `expected.safetensors`
the features of the pictures of `inception_weights`: `alone` as they are, and `resized` as
pytorch-fid takes pictures. The published weights are not downloaded.
"""

import json
import lzma
from pathlib import Path

import safetensors.numpy
import torch
from inception_weights import SIZES, pictures, weights
from pytorch_fid import inception

OUT = Path(__file__).parent / "inception"


def make_network(shapes: dict[str, list[int]], *, resize: bool) -> torch.nn.Module:
    """pytorch-fid's network up to the features that FID is of."""
    state = {
        name: torch.from_numpy(weights(name, tuple(shape)))
        for name, shape in shapes.items() if not name.endswith("num_batches_tracked")
    }  # fmt: skip
    inception.load_state_dict_from_url = lambda *_, **__: state
    return inception.InceptionV3(resize_input=resize).eval()


def published_shapes() -> dict[str, list[int]]:
    """Names and shapes of the tensors that pytorch-fid's network loads."""
    shapes: dict[str, list[int]] = {}

    def note(self: torch.nn.Module, _: dict) -> None:
        shapes.update({name: list(x.shape) for name, x in self.state_dict().items()})

    load, torch.nn.Module.load_state_dict = torch.nn.Module.load_state_dict, note
    inception.load_state_dict_from_url = lambda *_, **__: {}
    inception.fid_inception_v3()
    torch.nn.Module.load_state_dict = load
    return shapes


def main() -> None:
    """Writes the files; the same ones every time."""
    shapes, features = published_shapes(), {}
    for name in SIZES:
        network = make_network(shapes, resize=name == "resized")
        inputs = torch.from_numpy(pictures(name)).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            (output,) = network(inputs)
        features[name] = output[:, :, 0, 0].numpy()
    OUT.mkdir(exist_ok=True)
    (OUT / "shapes.json.xz").write_bytes(lzma.compress(json.dumps(shapes).encode()))
    safetensors.numpy.save_file(features, OUT / "expected.safetensors")


if __name__ == "__main__":
    main()
