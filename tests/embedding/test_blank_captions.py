"""Captions that are blank to the vocabulary: no end of the work."""

from imagen_jax.embedding.caption_sources import without_repetitions
from imagen_jax.text.tokenizer import EOS_ID, load_tokenizer


def test_a_caption_that_is_blank_is_embedded_as_its_end_alone():
    """Training, which reads the embedding, takes its record for a broken one."""
    captions = without_repetitions(["a cat", "\ufffd", "\u200b"], load_tokenizer("captions"), 8)
    assert sorted(captions.lengths.tolist()) == [1, 1, 1, 3]
    assert sorted(ids.tolist() for ids in captions.ids)[:3] == [[EOS_ID]] * 3
