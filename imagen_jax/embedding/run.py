"""`embed`, from the captions of a data set to a directory that training and sampling read.

Every process takes its share of the lists and of the shards, with an encoder on its own devices.
All see the same directory, and wait for each other between one kind of work and the next.
"""

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from tqdm import tqdm

from imagen_jax.checkpoints.directory import package_versions
from imagen_jax.config import DataConfig, MeshConfig, StageConfig, json_form
from imagen_jax.embedding.caption_sources import CaptionLists, CaptionSource, open_captions
from imagen_jax.embedding.encoder import CaptionEncoder
from imagen_jax.embedding.part import UnfinishedPart, tidy
from imagen_jax.embedding.summary import describe, name_of, show, size_in_bytes
from imagen_jax.errors import UsageError
from imagen_jax.parallel import distributed
from imagen_jax.parallel.lock import Lock
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.storage.files import beside_logs, check_writable, write_text
from imagen_jax.stored.encoders import load_stage_tokenizer
from imagen_jax.stored.stages import StoredNetwork
from imagen_jax.text.cache import EmbeddingCache
from imagen_jax.text.cache_format import METADATA, Encoding, Metadata, Part, Plan, part_directory
from imagen_jax.text.tokenizer import Tokenizer
from imagen_jax.weights.tensors import digest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What is embedded, with what, and how.

    Attributes:
        config: of a stage, whose text encoder reads the captions for its U-Net.
        data: where the captions are.
        encoder: the weights; None to find out sizes only.
        captions_per_shard: about so many; what a kill undoes at most.
        batch_tokens: that a device embeds at once, padding among them.
    """

    config: StageConfig
    data: DataConfig
    encoder: StoredNetwork | None
    captions_per_shard: int
    batch_tokens: int


def embed(work: Work, out: Path) -> None:
    """Adds the captions of a data set to the embeddings in `out`; after a kill, goes on.

    The empty caption and the config's `training.sample_prompts` are embedded too.

    Raises:
        UsageError: data, encoder or `out` cannot be read or do not fit each other, other work is
            unfinished in `out`, or there is no room for it.
    """
    known = _open_known(work.config, out)
    fingerprint = work.encoder.fingerprint() if work.encoder else ""
    if known and work.encoder and fingerprint != known.metadata.encoder:
        raise UsageError(
            f"{out} was embedded by an encoder of other weights, {known.metadata.source}; name the "
            "same one, or a new directory."
        )
    tokenizer = load_stage_tokenizer(work.config)
    encoding = known.metadata.encoding if known else _encoding(work.config, tokenizer)
    with distributed.leader_first("opened the data"):  # It may have to be built.
        source = open_captions(work.data, work.config.conditions)
    plan = _plan(work, encoding, source)
    parts = known.metadata.parts if known else ()
    if any(part.plan == plan for part in parts):
        _say(f"{out} holds the captions of {name_of(plan.data)} already.")
        return
    part = UnfinishedPart(part_directory(out, len(parts)), plan, known)
    part.check()
    distributed.wait_for_all("checked the plan")
    with Lock(out):
        _check_unchanged(out, parts)
        lists = _begin(part, source, tokenizer)
        if work.encoder is not None:
            _make(part, lists, work, out, fingerprint)


def _check_unchanged(out: Path, parts: Sequence[Part]) -> None:
    """Raises a UsageError where another run has finished a part since this one read of them."""

    def check() -> None:
        now = EmbeddingCache(out).metadata.parts if (out / METADATA).is_file() else ()
        if now != parts:
            raise UsageError(f"Another run has just finished in {out}; give the command again.")

    distributed.leader_does(check)


def _begin(part: UnfinishedPart, source: CaptionSource, tokenizer: Tokenizer) -> CaptionLists:
    """Lists of all captions of a part, and its sizes."""
    if distributed.leads():
        part.claim()
    distributed.wait_for_all("claimed the part")
    lists = _find_captions(part, source, tokenizer)
    _say(describe(part.plan, part.sizes))
    return lists


def _make(
    part: UnfinishedPart, lists: CaptionLists, work: Work, out: Path, fingerprint: str
) -> None:
    """The shards of a part, what of them is not there yet, and the account of it."""
    part.keep_encoder(fingerprint, writes=distributed.leads())
    if part.sizes.distinct:
        _write_shards(part, lists, work)
    distributed.wait_for_all("wrote the shards")
    if distributed.leads():
        _finish(part, out, fingerprint, str(work.encoder.origin))
    distributed.wait_for_all("finished the embeddings")


def _open_known(config: StageConfig, out: Path) -> EmbeddingCache | None:
    """What is finished in `out`; None for a new directory, or one that has nothing finished."""
    check_writable(out, f"OUT is {out}")
    if (out / METADATA).is_file():
        known = EmbeddingCache(out)
        known.check(config)
        if distributed.leads():  # A kill may have left something behind.
            for number in range(len(known.metadata.parts)):
                tidy(part_directory(out, number))
        return known
    if beside_logs(out) and not part_directory(out, 0).is_dir():
        raise UsageError(f"OUT is {out}, which holds something else; name a new directory.")
    return None


def _encoding(config: StageConfig, tokenizer: Tokenizer) -> Encoding:
    encoder = config.text_encoder
    return Encoding(
        t5=encoder.t5,
        clip=encoder.clip,
        clip_layer=encoder.clip_layer,
        tokenizer=encoder.tokenizer,
        vocabulary=tokenizer.fingerprint,
        max_length=encoder.max_length,
        lowercase=encoder.lowercase,
        padded=config.unet.variant.reads_padding,
    )


def _plan(work: Work, encoding: Encoding, source: CaptionSource) -> Plan:
    matters = ("source", "mixture", "filters", "split", "data_dir")
    data = DataConfig(**{name: getattr(work.data, name) for name in matters})
    return Plan(
        encoding=encoding,
        data=data,
        records=len(source),
        fingerprint=source.fingerprint,
        prompts=work.config.training.sample_prompts,
        captions_per_shard=work.captions_per_shard,
        batch_tokens=work.batch_tokens,
    )


def _mine(count: int) -> range:
    """This process's share of so many."""
    return range(jax.process_index(), count, jax.process_count())


def _find_captions(
    part: UnfinishedPart, source: CaptionSource, tokenizer: Tokenizer
) -> CaptionLists:
    """Lists and index of all captions."""
    mine = _mine(len(part.lists))
    with _bar(sum(len(part.records(number)) for number in mine), "record") as bar:
        for number in mine:
            part.write_list(number, source, tokenizer, bar.update)
    distributed.wait_for_all("listed the captions")
    lists = part.open_lists()
    if distributed.leads():
        part.write_index(lists)
    distributed.wait_for_all("wrote the index")
    return lists


def _write_shards(part: UnfinishedPart, lists: CaptionLists, work: Work) -> None:
    """This process's shards that are not there yet."""
    in_shards = part.sizes.shards
    mine = _mine(len(in_shards))
    todo = [number for number in mine if not part.is_written(number)]
    if not todo:
        return
    _check_room(part, len(todo) / len(mine))
    mesh = make_mesh(MeshConfig(), jax.local_devices())
    params = work.encoder.load(mesh)
    if distributed.leads() and part.known is None:
        part.keep_digest(digest(params))
    encoder = CaptionEncoder(
        work.config, params, mesh, padded=part.plan.encoding.padded, batch_tokens=work.batch_tokens
    )
    captions = sum(in_shards[number] for number in todo)
    done = sum(in_shards[number] for number in mine) - captions
    started = time.monotonic()
    with _bar(done + captions, "caption", done) as bar:
        for number in todo:
            part.write_shard(number, lists, encoder, bar.update)
    seconds = max(time.monotonic() - started, 1e-9)
    where = " in this process" if jax.process_count() > 1 else ""
    pictures = captions / sum(in_shards) * part.plan.records
    _say(
        f"{captions:,} captions in {seconds:.1f} s{where}: {captions / seconds:,.1f} captions per "
        f"second, those of {pictures / seconds:,.1f} pictures per second"
    )


def _check_room(part: UnfinishedPart, share: int | float) -> None:
    needed = share * size_in_bytes(part.sizes, part.plan.encoding)
    free = shutil.disk_usage(part.directory).free
    if needed > free:
        raise UsageError(
            f"{part.directory} needs up to {show(needed)} and has room for {show(free)}; a shorter "
            "--max-length or another directory would do."
        )


def _finish(part: UnfinishedPart, out: Path, encoder: str, source: str) -> None:
    known, sizes = part.known, part.sizes
    if not sizes.distinct:
        shutil.rmtree(part.directory)
        print(f"{out} holds all of these captions already.")
        return
    shard_bytes = sum(part.shard(number).stat().st_size for number in range(len(sizes.shards)))
    metadata = Metadata(
        encoding=part.plan.encoding,
        encoder=encoder,
        encoder_sha256=part.encoder_sha256(),
        source=source,
        parts=(
            *(known.metadata.parts if known else ()),
            Part(plan=part.plan, sizes=sizes, shard_bytes=shard_bytes),
        ),
        versions=package_versions(),
    )
    write_text(out / METADATA, json_form.to_sealed_json(metadata))
    tidy(part.directory)
    print(
        f"{part.directory}: {sizes.distinct:,} captions, {show(shard_bytes)}, "
        f"{shard_bytes / sizes.distinct:,.0f} bytes a caption"
    )


def _bar(total: int, unit: str, done: int = 0) -> tqdm:
    return tqdm(
        total=total, initial=done, unit=unit, disable=not distributed.leads(), dynamic_ncols=True
    )


def _say(text: str) -> None:
    if distributed.leads():
        print(text)
