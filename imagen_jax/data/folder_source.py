"""A folder of pictures, each beside a `.txt` file with one caption a line."""

from pathlib import Path

from imagen_jax.data.records import ListedCaptions, Metadata, Record
from imagen_jax.errors import UsageError

PICTURE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class FolderSource:
    """All pictures below a directory, in the order of their paths."""

    def __init__(self, directory: Path):
        """Reads all captions, so that a missing one shows before training.

        Raises:
            UsageError: no such directory, no picture, or a picture without a caption.
        """
        if not directory.is_dir():
            raise UsageError(f"data.source is 'folder:{directory}'; there is no such directory.")
        files = (path for path in directory.rglob("*") if path.is_file())
        self._paths = sorted(path for path in files if path.suffix.lower() in PICTURE_SUFFIXES)
        if not self._paths:
            known = ", ".join(PICTURE_SUFFIXES)
            raise UsageError(f"data.source is 'folder:{directory}'; it holds no picture ({known}).")
        self._captions = [read_captions(path.with_suffix(".txt")) for path in self._paths]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Record:
        path = self._paths[index]
        return Record(str(path), path.read_bytes(), None, self.metadata(index).captions)

    def metadata(self, index: int) -> Metadata:
        return Metadata(ListedCaptions(tuple(self._captions[index])))


def read_captions(path: Path) -> list[str]:
    """The lines of `path` that are not blank; at least one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; it must hold its picture's captions.") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}.") from error
    captions = [line.strip() for line in lines if line.strip()]
    if not captions:
        raise UsageError(f"{path} has no caption; it must hold one a line.")
    return captions
