"""All kinds of input that tools/attack.py damages, by name."""

from attacks import sources, stages, texts
from attacks.kind import Kind

KINDS: dict[str, Kind] = sources.KINDS | texts.KINDS | stages.KINDS
