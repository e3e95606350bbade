"""Stages on Hugging Face's hub, `hf://owner/name`, fetched into its own cache. No JAX here.

Of a repository nothing is fetched but safetensors and JSON: no code, and no pickle.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import AnyPath, on_hub, to_path

STAGE_FILE = "stage.safetensors"
"""What a published stage is called in its repository."""
_ADDRESS = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<inside>[^@]+))?"
)
_FETCHED = (".safetensors", ".json")


def stage_path(text: str) -> AnyPath:
    """Where a stage or a text encoder is, as `to_path`; from the hub it is fetched first.

    `hf://owner/name` is the one stage of a repository, `hf://owner/name/FILE` a file, and
    `hf://owner/name/DIRECTORY` a directory with a `config.json`, such as a T5. A branch, tag or
    commit may follow the name: `hf://owner/name@COMMIT`.

    Raises:
        UsageError: there is no such thing, or it cannot be reached.
    """
    return _fetched(text) if on_hub(text) else to_path(text)


def repository(text: str) -> str:
    """The `owner/name` of a repository, which may be spelt as an address.

    Raises:
        UsageError: it is none.
    """
    match = _ADDRESS.fullmatch(text if on_hub(text) else f"hf://{text}")
    if match is None or match["inside"] or match["revision"]:
        raise UsageError(f"The repository is {text!r}; it must be named as owner/name.")
    return match["repo"]


def _fetched(text: str) -> Path:
    match = _ADDRESS.fullmatch(text)
    inside = PurePosixPath((match and match["inside"]) or "")
    if match is None or inside.is_absolute() or ".." in inside.parts:
        raise UsageError(
            f"{text!r} is no address on the hub; it must be hf://owner/name, and a file of it may "
            "follow, such as hf://owner/name/base.safetensors."
        )
    with reporting(text):
        return _fetch(match["repo"], match["revision"], inside)


def _fetch(repo: str, revision: str | None, inside: PurePosixPath) -> Path:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RemoteEntryNotFoundError

    api = HfApi(library_name="imagen-jax")
    if inside.suffix == ".safetensors":
        return Path(api.hf_hub_download(repo, str(inside), revision=revision))
    # First, since it is found without a network too once it has been fetched.
    with contextlib.suppress(RemoteEntryNotFoundError):
        return Path(api.hf_hub_download(repo, str(inside / STAGE_FILE), revision=revision))
    names = _files_in(api.list_repo_files(repo, revision=revision), inside)
    if (inside / "config.json") in names:
        wanted = [str(name) for name in names]
        root = api.snapshot_download(repo, revision=revision, allow_patterns=wanted)
        return Path(root) / inside
    stages = [name for name in names if name.suffix == ".safetensors"]
    if len(stages) != 1:
        raise UsageError(_which(repo, stages))
    return Path(api.hf_hub_download(repo, str(stages[0]), revision=revision))


def _files_in(names: Sequence[str], directory: PurePosixPath) -> list[PurePosixPath]:
    """What may be fetched of a directory itself, without what lies deeper."""
    paths = map(PurePosixPath, sorted(names))
    return [path for path in paths if path.parent == directory and path.suffix in _FETCHED]


def _which(repo: str, stages: Sequence[PurePosixPath]) -> str:
    if not stages:
        return f"hf://{repo} holds no safetensors there; only such files are read from the hub."
    names = ", ".join(f"hf://{repo}/{stage}" for stage in stages[:20])
    return f"hf://{repo} holds {len(stages)} safetensors; name one of them: {names}."


@contextlib.contextmanager
def reporting(text: str) -> Iterator[None]:
    """Says in a sentence what the hub or the network refuses of an address."""
    from huggingface_hub import constants, errors

    try:
        yield
    except UsageError:
        raise
    except errors.GatedRepoError as error:
        raise UsageError(
            f"{text} is gated: agree to its terms on its page, and say who you are by HF_TOKEN or "
            "`hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(
            f"{text} does not exist, or is private and neither HF_TOKEN nor `hf auth login` names "
            "anybody who may read it."
        ) from error
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise UsageError(f"{text} does not exist: its repository has no such part.") from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in (401, 403):
            raise UsageError(f"{text}: the hub answers: {reason(error)}.") from error
        raise UsageError(
            f"{text} is refused; HF_TOKEN or `hf auth login` must name somebody who may do this."
        ) from error
    except Exception as error:  # Of network, server and cache, each with classes of its own.
        if constants.HF_HUB_OFFLINE:
            raise UsageError(
                f"{text} was not fetched before, and HF_HUB_OFFLINE forbids to ask the hub."
            ) from error
        why = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
        raise UsageError(f"{text} cannot be reached: {reason(why or error)}.") from error
