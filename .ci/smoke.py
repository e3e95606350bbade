"""What an installed package must do with every Python and every version that setup.cfg allows.

    python .ci/smoke.py

Imports all modules, paints a picture with the shipped base and trains three steps of a very small
base on pictures of its own, each by the command that a user types, outside of the clone.
"""

import importlib
import os
import pkgutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

SIZES = {
    "resolution": 16, "unet.embed-dim": 8, "unet.channel-mult": 1, "unet.num-res-blocks": 1,
    "unet.attention-resolutions": 8, "unet.head-dim": 8, "unet.patch-size": 2,
    "unet.norm-groups": 4, "text-encoder.t5.d-model": 16, "text-encoder.t5.num-layers": 1,
    "text-encoder.t5.num-heads": 2, "text-encoder.t5.d-kv": 8, "text-encoder.t5.d-ff": 16,
    "training.num-steps": 3, "training.batch-size": 4, "training.log-every": 1,
    "training.checkpoint-every": 2, "training.sample-every": 3, "sampling.num-steps": 2,
}  # fmt: skip
TINY = [part for name, value in SIZES.items() for part in (f"--{name}", value)]


def import_all() -> int:
    """Imports every module that a plain install can use; how many there are."""
    import imagen_jax

    names = [m.name for m in pkgutil.walk_packages(imagen_jax.__path__, "imagen_jax.")]
    names = [name for name in names if not name.endswith("__main__")]
    if find_spec("starlette") is None:
        # The page's server comes with the extra `ui`.
        names = [name for name in names if not name.startswith("imagen_jax.serve")]
    for name in names:
        importlib.import_module(name)
    return len(names)


def command(directory: Path, *arguments: object) -> None:
    """Runs it in `directory`, where what is compiled is kept for the next one."""
    subprocess.run(
        [sys.executable, "-m", "imagen_jax", *map(str, arguments)],
        cwd=directory,
        env=os.environ | {"IMAGEN_CACHE_DIR": str(directory / "compiled")},
        check=True,
    )


def main() -> None:
    for name in ("jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy"):
        print(name, version(name))
    print(import_all(), "modules")
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        command(directory, "sample", "a red apple", "--sr256", "none", "--steps", 4)
        assert Image.open(directory / "out" / "00-a-red-apple-0-64.png").size == (64, 64)
        pictures = directory / "pictures"
        pictures.mkdir()
        for number in range(4):
            Image.new("RGB", (16, 16), (60 * number, 90, 30)).save(pictures / f"{number}.png")
            (pictures / f"{number}.txt").write_text(f"picture {number}")
        train = ["train", "tiny_64", "--workdir", "run", "--data.source", f"folder:{pictures}"]
        command(directory, *train, *TINY)
        command(directory, *train, *TINY, "--training.num-steps", 4)
        command(directory, "sample", "picture 1", "--base", "run", "--steps", 2, "--out", "mine")
        assert (directory / "mine" / "manifest.json").is_file()
    print("all of it works")


if __name__ == "__main__":
    main()
