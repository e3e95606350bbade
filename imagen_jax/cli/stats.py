"""The verb `stats`: the features of pictures, made once."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from imagen_jax.cli.given import require_positive_flags
from imagen_jax.cli.outputs import require_suffix
from imagen_jax.config.choices import Crop, Recipe, Resizer
from imagen_jax.errors import UsageError
from imagen_jax.parallel.machine import DistributedFlags
from imagen_jax.storage.files import check_writable


@dataclasses.dataclass(frozen=True)
class Stats:
    """Make the features of a set of pictures once, for --reference of evaluate. The same command
    goes on after a kill."""

    pictures: Annotated[Positional[Path], arg(metavar="PICTURES")]
    """Directory of pictures, or one that sample.py wrote."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Directory for the features: a new one, or that of the same command before."""
    weights: Path
    """Of the network: for inception the file that `convert inception` wrote, for clip and dinov2 a
    directory of Hugging Face."""
    recipe: Recipe = "pytorch-fid"
    """Which network makes the features, and how pictures are read for it. pytorch-fid, clean-fid
    and torch-fidelity are of inception, whole pictures, and differ in the resizer and in what
    inception makes of a pixel, x / 127.5 - 1 or x / 128 - 1; imagen-fid30k takes
    their centre, brings larger ones to 256 pixels and goes on as clean-fid. cmmd is of clip and
    fd-dinov2 of dinov2."""
    crop: Crop | None = None
    """Instead of the recipe's: the whole picture, brought to a square, or its centre."""
    resizer: Resizer | None = None
    """Instead of the recipe's: how a picture comes to the network's size."""
    first_side: int | None = None
    """Instead of the recipe's: pixels to which larger pictures are brought before, by lanczos; with
    0 they are not."""
    npz: Path | None = None
    """File to write their mean and covariance to, as pytorch-fid reads them; of inception alone."""
    batch_size: int = 32
    """Pictures that go through the network at once."""
    distributed: DistributedFlags = DistributedFlags()
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""

    def run(self) -> None:
        from imagen_jax.evaluation.distances import check_frechet
        from imagen_jax.evaluation.feature_files import make_features
        from imagen_jax.evaluation.measures import named
        from imagen_jax.evaluation.pictures import open_pictures
        from imagen_jax.evaluation.reading import RECIPES
        from imagen_jax.evaluation.run import open_here
        from imagen_jax.evaluation.statistics_file import write_statistics
        from imagen_jax.models.inception import FEATURES
        from imagen_jax.parallel import distributed

        require_positive_flags(self, "batch_size")
        name, reading = RECIPES[self.recipe]
        if self.npz and name != "inception":
            raise UsageError(f"--npz is {self.npz}; it is of inception, and {self.recipe} is not.")
        chosen = {"crop": self.crop, "resizer": self.resizer, "first_side": self.first_side}
        changes = {field: value for field, value in chosen.items() if value is not None}
        reading = dataclasses.replace(reading, **changes)
        pictures = open_pictures(self.pictures)
        if self.npz:
            check_frechet(len(pictures), FEATURES)
            require_suffix(self.npz, ".npz")
            check_writable(self.npz.parent, f"--npz is {self.npz}")
        distributed.start(self.distributed)
        distributed.require_accelerator(allow_cpu=self.allow_cpu)
        network = open_here(name, self.weights, reading)
        made = make_features(pictures, network, self.out, batch_size=self.batch_size)
        if distributed.leads():
            if self.npz:
                write_statistics(self.npz, made.moments())
            print(f"{self.out}: {made.count} pictures, {named(made)}")
