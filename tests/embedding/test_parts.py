"""Embeddings in parts and shards: stopped and gone on with, added to, damaged, refused.

But for the kill, an encoder that needs no compiling stands in: a caption's rows are its tokens.
"""

import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgpack
import numpy as np
import pytest
import sets
import tiny
from scripts import ROOT, call, cut, refused, tree, verbs

from imagen_jax.config import json_form
from imagen_jax.data.arrayrecord_source import write_file
from imagen_jax.embedding import part, run
from imagen_jax.embedding.encoder import CaptionEncoder
from imagen_jax.errors import UsageError, exit_on_usage_error
from imagen_jax.parallel.lock import Lock
from imagen_jax.stored.stages import StoredNetwork
from imagen_jax.text.cache import EmbeddingCache
from imagen_jax.text.cache_format import BFLOAT16, INDEX
from imagen_jax.text.tokenizer import load_tokenizer
from imagen_jax.weights.stage_file import save_stage_file

WORKER = Path(__file__).with_name("worker.py")


class TokensAsRows(CaptionEncoder):
    """In the place of a CaptionEncoder."""

    calls = 0

    def __init__(self, config, params, mesh, *, padded, batch_tokens):
        self._padded, self._most = padded, config.text_encoder.max_length

    def __call__(self, captions):
        for caption in captions:
            type(self).calls += 1
            ids = np.pad(caption, (0, self._most - len(caption) if self._padded else 0))
            yield np.repeat(ids[:, None], tiny.T5.d_model, 1).astype(BFLOAT16)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return sets.make_set(tmp_path_factory.mktemp("set"))


@pytest.fixture
def encoder(monkeypatch):
    monkeypatch.setattr(run, "CaptionEncoder", TokensAsRows)
    monkeypatch.setattr(StoredNetwork, "load", lambda *_: {})
    monkeypatch.setattr(StoredNetwork, "fingerprint", lambda _: "tokens")
    TokensAsRows.calls = 0
    return TokensAsRows


@pytest.fixture
def out(made, encoder, tmp_path):
    result = made.embed(tmp_path / "out", "--captions-per-shard", 3)
    assert result.code == 0, result.err
    return tmp_path / "out"


def ids(captions) -> np.ndarray:
    return load_tokenizer("captions")(captions, tiny.LENGTH)[0]


def test_rows_lengths_and_captions_belong_together(out):
    captions = sorted(sets.DISTINCT)
    read = EmbeddingCache(out)(captions)
    np.testing.assert_array_equal(read["text"][:, :, 3].astype(int), _rounded(ids(captions)))
    np.testing.assert_array_equal(read["mask"], ids(captions) > 0)


def _rounded(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(BFLOAT16).astype(int)


def test_the_index_takes_20_bytes_a_caption(made, encoder, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"picture number {number}" for number in range(3000)))
    assert made.embed(tmp_path / "out", dataset=f"prompts:{file}").code == 0
    sizes = [(tmp_path / "out" / "00000" / name).stat().st_size for name in INDEX]
    assert sum(sizes) == 20 * 3001
    read = EmbeddingCache(tmp_path / "out")(["picture number 7", "picture number 2999"])
    assert read["mask"].any(1).all()


def test_a_second_time_nothing_is_done(made, out, encoder):
    """But that what a kill left behind at the very end goes away."""
    before, calls = tree(out), encoder.calls
    (out / "00000" / "lists").mkdir()
    (out / "00000" / "plan.json").write_text("{}")
    result = made.embed(out, "--captions-per-shard", 3)
    assert result.code == 0 and "already" in result.out
    assert tree(out) == before and encoder.calls == calls


def test_one_run_at_a_time_writes(made, encoder, tmp_path, monkeypatch):
    """A second one is refused, and one that began to read before another's end too."""
    out = tmp_path / "out"
    with Lock(out):
        refused(made.embed(out), f"{out} is in use by another run; wait for its end")
        assert [path.name for path in out.iterdir()] == [".lock"]
    before = run.open_captions

    def slowly(data, conditions):
        monkeypatch.setattr(run, "open_captions", before)
        assert made.embed(out).code == 0
        return before(data, conditions)

    monkeypatch.setattr(run, "open_captions", slowly)
    refused(made.embed(out), f"Another run has just finished in {out}; give the command again.")
    assert "already" in made.embed(out).out


def test_what_is_added_is_a_part_of_what_is_new(made, out, encoder, tmp_path):
    before, calls = tree(out), encoder.calls
    file = tmp_path / "prompts.txt"
    file.write_text("a blue rocket\n\n  a red apple\na blue rocket\n")
    result = made.embed(out, dataset=f"prompts:{file}")
    assert result.code == 0, result.err
    assert "3 records, 3 captions; to embed are 1, each once" in result.out
    assert encoder.calls == calls + 1
    after = tree(out)
    assert {name: after[name] for name in before if name != "metadata.json"} == {
        name: content for name, content in before.items() if name != "metadata.json"
    }
    read = EmbeddingCache(out)(["a red apple", "a blue rocket"])
    np.testing.assert_array_equal(
        read["text"][:, :, 0].astype(int), _rounded(ids(["a red apple", "a blue rocket"]))
    )
    file.write_text("pizza\n")
    result = made.embed(out, dataset=f"prompts:{file}")
    assert result.code == 0 and "already" in result.out
    assert tree(out) == after


def test_a_mixture_is_embedded_without_its_broken_records(made, encoder, tmp_path):
    """All that the stage's own config reads, and what it is judged by."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a held-out picture")
    records = [msgpack.packb({"image": b"", "captions": ["a kite", "pizza"]}), b"none"]
    write_file(tmp_path / "packed" / "0.arrayrecord", iter(records))
    mixture = (f"0.5*arrayrecord:{tmp_path / 'packed'}", f"2*folder:{made.folder}")
    data = {"source": "folder:nowhere", "mixture": mixture, "eval_source": f"prompts:{prompts}"}
    config = tiny.stage(data=data, training={"eval_every": 1})
    workdir, out = tmp_path / "run", tmp_path / "out"
    (workdir / "checkpoints").mkdir(parents=True)
    (workdir / "config.json").write_text(json_form.to_json(config))
    flags = ("--stage", workdir, "--text-encoder.source", made.stage)
    result = call(verbs, "embed", "stage", out, *flags)
    assert result.code == 0, result.err
    assert (
        f"arrayrecord:{tmp_path / 'packed'}, folder:{made.folder}: 7 records (1 broken), 11 "
        in (result.out)
    )
    captions = [*sets.DISTINCT, "a kite", "a held-out picture"]
    assert not EmbeddingCache(out).missing(captions)


def test_two_lists_give_what_one_gives(made, out, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(part, "RECORDS_PER_LIST", 2)
    made.embed(tmp_path / "lists", "--captions-per-shard", 3)
    captions = sorted(sets.DISTINCT)
    one, other = EmbeddingCache(out), EmbeddingCache(tmp_path / "lists")
    assert one.metadata.parts[0].sizes.distinct == other.metadata.parts[0].sizes.distinct
    for name, array in one(captions).items():
        np.testing.assert_array_equal(array, other(captions)[name])


def test_lists_and_shards_that_are_there_are_kept(made, out, encoder, tmp_path, monkeypatch):
    """A run that fails after the second shard, and one that goes on."""
    write_shard = part.UnfinishedPart.write_shard

    def fail(self, number, *arguments):
        if number == 2:
            raise UsageError("The disk is full.")
        write_shard(self, number, *arguments)

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(part.UnfinishedPart, "write_shard", fail)
        result = made.embed(stopped, "--captions-per-shard", 3)
    assert result.code == 2 and "The disk is full" in result.err
    refused(call_read(stopped), "holds no finished text embeddings")
    kept = {path: path.stat().st_mtime_ns for path in (stopped / "00000").rglob("*.*r*")}
    assert len(kept) >= 2
    (stopped / "00000" / ".x.array_record.1.tmp").write_text("of a killed process")
    before = run.open_captions
    monkeypatch.setattr(run, "open_captions", lambda *of: Unreadable(before(*of)))
    assert made.embed(stopped, "--captions-per-shard", 3).code == 0
    for path, time_of in kept.items():
        assert not path.exists() or path.stat().st_mtime_ns == time_of
    assert tree(stopped) == tree(out)


class Unreadable:
    """A data set that may be counted and told from others, and not read."""

    def __init__(self, source):
        self._count, self.fingerprint = len(source), source.fingerprint

    def __len__(self):
        return self._count

    def metadata(self, index):
        raise AssertionError(f"record {index} is read again")


def call_read(directory):
    """What a script says that reads all captions from a directory."""

    class Script:
        @staticmethod
        def main():
            with exit_on_usage_error():
                EmbeddingCache(directory)(sorted(sets.DISTINCT))

    return call(Script)


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [cut, zero, Path.unlink])
@pytest.mark.parametrize("name", ["00001-of-00003.array_record", "high.u64", "row.u32"])
def test_a_damaged_file_is_one_sentence(out, damage, name):
    path = out / "00000" / name
    damage(path)
    if (damage, name) == (zero, "high.u64"):
        refused(call_read(out), "has no embedding")
    elif (damage, name) == (zero, "row.u32"):
        refused(call_read(out), "of another caption")
    else:
        refused(call_read(out), str(path))


def test_a_damaged_shard_is_made_again_before_the_end(made, out, encoder, tmp_path, monkeypatch):
    def fail(*_):
        raise UsageError("Stopped.")

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(run, "_finish", fail)
        made.embed(stopped, "--captions-per-shard", 3)
    cut(stopped / "00000" / "00001-of-00003.array_record")
    assert made.embed(stopped, "--captions-per-shard", 3).code == 0
    assert tree(stopped) == tree(out)


@pytest.mark.parametrize("content", [b"", b"{}", b"no json", b'{"format": "another"}'])
def test_metadata_that_is_none_is_one_sentence(out, content):
    (out / "metadata.json").write_bytes(content)
    refused(call_read(out), "metadata.json")


def stopped_part(made, directory, monkeypatch):
    def fail(*_):
        raise UsageError("Stopped.")

    with monkeypatch.context() as patch:
        patch.setattr(run, "_write_shards", fail)
        refused_last = made.embed(directory)
    assert refused_last.code == 2
    return directory


@pytest.mark.parametrize(
    "flags, says",
    [
        (("--captions-per-shard", 7), "begun with captions_per_shard 16384 and this has 7"),
        (("--max-length", 6), "begun with encoding.max_length 8 and this has 6"),
        (("--split", "test"), "begun with data.split 'train' and this has 'test'"),
    ],
)
def test_other_work_than_was_begun_is_refused(made, encoder, tmp_path, monkeypatch, flags, says):
    begun = stopped_part(made, tmp_path / "out", monkeypatch)
    before = tree(begun)
    refused(made.embed(begun, *flags), says, "or delete it")
    assert tree(begun) == before


def test_another_encoder_is_refused(made, out, encoder, tmp_path, monkeypatch):
    begun = stopped_part(made, tmp_path / "out2", monkeypatch)
    monkeypatch.setattr(StoredNetwork, "fingerprint", lambda _: "others")
    result = made.embed(begun)
    assert result.code == 2 and "begun with an encoder of other weights" in result.err
    file = tmp_path / "prompts.txt"
    file.write_text("a blue rocket")
    refused(made.embed(out, dataset=f"prompts:{file}"), "by an encoder of other weights")


def test_other_lengths_than_the_finished_ones_are_refused(made, out):
    refused(
        made.embed(out, "--max-length", 6),
        f"{out} was embedded with text_encoder.max_length 8; this stage has 6",
    )


def test_prompts_that_were_changed_are_embedded_too(made, encoder, tmp_path):
    """The same number of them, in a file of the same name."""
    path, out = tmp_path / "prompts.txt", tmp_path / "out"
    for said in ("a red apple", "a blue car"):
        path.write_text(said)
        assert made.embed(out, dataset=f"prompts:{path}").code == 0
    assert not EmbeddingCache(out).missing(["a red apple", "a blue car"])


def test_mistakes_are_one_sentence(made, encoder, tmp_path):
    out = tmp_path / "out"
    empty, latin = tmp_path / "empty.txt", tmp_path / "latin.txt"
    empty.write_text("\n \n")
    latin.write_bytes("caf\u00e9".encode("latin-1"))
    refused(made.embed(out, dataset=f"prompts:{tmp_path / 'none.txt'}"), "none.txt cannot be read")
    refused(made.embed(out, dataset=f"prompts:{empty}"), "has no prompt")
    refused(made.embed(out, dataset=f"prompts:{latin}"), "is not UTF-8")
    refused(made.embed(out, dataset="folder:nowhere"), "nowhere")
    refused(made.embed(out, "--batch-tokens", 0), "--batch-tokens is 0")
    refused(
        made.embed(out, "--split", "test", dataset="stage"), "--split is test and DATASET stage"
    )
    refused(made.embed(out, "--max-length", 1), "--max-length is 1; it must be at least 2")
    assert not out.exists()
    refused(made.embed(made.folder), "holds something else")
    out.mkdir()
    (out / "embed.log").write_text("of the command itself")
    result = made.embed(out, "--size-only")
    assert result.code == 0, result.err


def test_too_little_room_is_said_before_anything_is_embedded(made, encoder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: usage)
    result = made.embed(tmp_path / "out")
    assert result.code == 2 and "has room for 1 kB" in result.err
    assert encoder.calls == 0


def test_the_size_alone_needs_no_weights(made, tmp_path, monkeypatch, encoder):
    """And the work on the captions is done."""
    flags = ("--text-encoder.source", tmp_path / "nowhere")
    refused(made.embed(tmp_path / "out", *flags), "nowhere")
    result = made.embed(tmp_path / "out", "--size-only", *flags)
    assert result.code == 0 and "400 million" in result.out and encoder.calls == 0
    before = run.open_captions
    monkeypatch.setattr(run, "open_captions", lambda *of: Unreadable(before(*of)))
    assert made.embed(tmp_path / "out").code == 0
    refused(call(verbs, "embed", "prompts:x", tmp_path / "y"), "--stage")


def test_captions_in_other_letters_are_one_where_case_is_not_read(made, encoder, tmp_path):
    config = tiny.replace(tiny.stage(), text_encoder={"lowercase": True})
    stage = tmp_path / "lower.safetensors"
    save_stage_file(stage, config, {**tiny.random_params(config)}, "float32")
    file = tmp_path / "prompts.txt"
    file.write_text("A red Apple\na red apple\n")
    out = tmp_path / "out"
    result = call(verbs, "embed", f"prompts:{file}", out, "--stage", stage)
    assert "to embed are 2, each once" in result.out  # With the empty one.
    read = EmbeddingCache(out)([" a RED apple ", "a red apple"])
    np.testing.assert_array_equal(*read["text"])


def test_padding_is_kept_for_a_network_that_reads_it(made, encoder, tmp_path):
    config = tiny.replace(tiny.stage(), unet={"variant": {"mask_padding": False}})
    stage, out = tmp_path / "padded.safetensors", tmp_path / "out"
    save_stage_file(stage, config, tiny.random_params(config), "float32")
    result = call(verbs, "embed", f"folder:{made.folder}", out, "--stage", stage)
    assert result.code == 0 and "with the rows of padding" in result.out
    cache = EmbeddingCache(out)
    (length,) = {len(cache._read(*place)[1]) for place in cache._places(sorted(sets.DISTINCT))}
    assert length == tiny.LENGTH
    np.testing.assert_array_equal(cache(["pizza"])["mask"], ids(["pizza"]) > 0)
    cache.check(tiny.replace(made.config))


EXTENSION = b"\xc0\x0c\x01"
"""A field of the file that SentencePiece does not know, and so does not read."""
STAGE = tiny.stage(text_encoder={"train": False})


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"text_encoder": {"t5": dataclasses.replace(tiny.T5, d_ff=32)}}, "text_encoder.t5.d_ff"),
        ({"text_encoder": {"max_length": 7}}, "text_encoder.max_length 8; this stage has 7"),
        ({"text_encoder": {"lowercase": True}}, "text_encoder.lowercase False"),
        ({"text_encoder": {"tokenizer": "OTHER"}}, "text_encoder.tokenizer 'captions'"),
        ({"unet": {"variant": {"text_norm": "group"}}}, "reads padding"),
        ({"unet": {"variant": {"mask_padding": False}}}, "reads padding"),
    ],
)
def test_a_stage_that_reads_captions_otherwise_is_refused(out, tmp_path, changes, says):
    if "tokenizer" in changes.get("text_encoder", {}):
        other = tmp_path / "tokenizer"
        other.mkdir()
        source = ROOT / "imagen_jax" / "text" / "captions.model"
        (other / "spiece.model").write_bytes(source.read_bytes() + EXTENSION)
        changes = {"text_encoder": {"tokenizer": str(other)}}
    cache = EmbeddingCache(out)
    with pytest.raises(UsageError, match=re.escape(says)):
        cache.check(tiny.replace(STAGE, **changes))


def test_how_an_encoder_is_computed_and_where_its_tokenizer_lies_may_differ(out, tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    shutil.copy(ROOT / "imagen_jax" / "text" / "captions.model", tokenizer / "spiece.model")
    t5 = dataclasses.replace(tiny.T5, dtype="bfloat16", remat="full")
    changes = {"t5": t5, "tokenizer": str(tokenizer)}
    EmbeddingCache(out).check(tiny.replace(STAGE, text_encoder=changes))


def test_embeddings_of_an_encoder_that_is_trained_are_refused():
    with pytest.raises(UsageError, match=r"data\.embeddings is 'x' and text_encoder\.train is on"):
        tiny.stage(data={"embeddings": "x"})


PICTURES = 40


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Captions for some dozens of shards of two."""
    captions = [[f"picture {number}", f"number {number}"] for number in range(PICTURES)]
    return sets.make_set(tmp_path_factory.mktemp("many"), captions)


def start(made, out, *flags, devices=8):
    command = [
        sys.executable, WORKER, str(devices), "embed", f"folder:{made.folder}", out, "--stage",
        made.stage, "--captions-per-shard", "2", *flags,
    ]  # fmt: skip
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    environ = os.environ | {"PYTHONPATH": path}
    return subprocess.Popen(list(map(str, command)), env=environ, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(many, tmp_path):
    """With the true encoder, and SIGKILL when some shards are there."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(many, killed)
    shards = lambda: sorted((killed / "00000").glob("*.array_record"))  # noqa: E731
    deadline = time.monotonic() + 300
    while len(shards()) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in shards()}
    assert 3 <= len(kept) < PICTURES
    refused(call_read(killed), "holds no finished text embeddings")
    for out in (killed, whole):
        assert many.embed(out, "--captions-per-shard", 2).code == 0
    assert tree(killed) == tree(whole)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


@pytest.mark.slow
def test_two_processes_write_what_one_does(many, tmp_path):
    """Each of four devices."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert start(many, one, devices=4).wait(600) == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    flags = ["--distributed.coordinator", f"127.0.0.1:{port}", "--distributed.num-processes", "2"]
    processes = [
        start(many, two, *flags, "--distributed.process-id", number, devices=4)
        for number in range(2)
    ]
    assert [process.wait(600) for process in processes] == [0, 0]
    assert tree(one) == tree(two)
