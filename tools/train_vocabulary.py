"""Trains the small vocabulary that ships as `imagen_jax/text/captions.model`.

    python tools/train_vocabulary.py
    python tools/train_vocabulary.py --letters --output runs/letters/spiece.model

SentencePiece unigram over every wording that the data package can produce; lower case, bytes
for what it has not seen, and T5's ids: padding 0, end 1, unknown 2. Deterministic. With
--letters a piece is one letter, as in ByT5, to compare with.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from imagen_jax.data import captions, emoji_vectors
from imagen_jax.storage.files import replacing

OUTPUT = Path(__file__).parents[1] / "imagen_jax" / "text" / "captions.model"
VOCABULARY_SIZE = 2048
PROMPT_WORDS = (
    "a photo of a {}", "a drawing of a {}", "a picture of the {}", "two of the {}",
    "a {} on a white background", "a small {} and a big {}", "the {} is next to the {}",
)  # fmt: skip
"""Words that people write in prompts and that no caption has."""


def sentences() -> Iterator[str]:
    """Every caption of every concept, and the label within some common prompt words."""
    for concept in emoji_vectors.concepts().values():
        styles = emoji_vectors.styles_of(concept.key)
        yield from captions.all_captions(concept.label, concept.keywords, styles)
        for words in PROMPT_WORDS:
            yield words.format(concept.label, concept.label)


def train(model_type: str = "unigram") -> bytes:
    """The serialized SentencePiece model; `model_type` is SentencePiece's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences(),
        model_writer=model,
        model_type=model_type,
        vocab_size=VOCABULARY_SIZE,
        hard_vocab_limit=model_type != "char",  # Of a char model the size is the most.
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc_cf",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        shuffle_input_sentence=False,
        num_threads=1,
        minloglevel=1,
    )
    return model.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--letters", action="store_true", help="one piece per letter")
    flags = parser.parse_args()
    model = train("char" if flags.letters else "unigram")
    with replacing(flags.output) as temporary:
        temporary.write_bytes(model)
    print(f"{flags.output}: {len(model):,} bytes")


if __name__ == "__main__":
    main()
