"""Captions to tokens."""

import os

# When it is imported, transformers would tell who has no PyTorch that models are missing; of it
# only tokenizers are used.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
