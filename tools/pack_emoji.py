"""Packs emoji vectors and their words into the files that ship in `imagen_jax/data/vectors/`.

Reads four unpacked npm packages, no network:

    npm pack @iconify-json/noto@1.2.9 @iconify-json/twemoji@1.2.5 \\
        @iconify-json/fluent-emoji-flat@1.2.6 emojibase-data@17.0.0
    python tools/pack_emoji.py --packages DIR    # DIR/iconify-json-noto-1.2.9/icons.json ...

Left out: skin tones, flags, keycaps and letters, hidden icons, and of vectors of one style that
are drawn exactly alike all but the one with the shortest (the plainest) label. The same input
gives the same bytes.
"""

import argparse
import json
import lzma
import re
from pathlib import Path

from imagen_jax.storage.files import replacing

OUTPUT = Path(__file__).parents[1] / "imagen_jax" / "data" / "vectors"
ICON_SETS = {
    "noto": "iconify-json-noto-*",
    "twemoji": "iconify-json-twemoji-*",
    "fluent": "iconify-json-fluent-emoji-flat-*",
}
WORDS = "emojibase-data-*"
EXCLUDED_GROUPS = {"component", "flags"}
EXCLUDED_SUBGROUPS = {"keycap", "alphanum"}
_ID = re.compile(r'\bid="([^"]+)"')


def read_json(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def only_match(packages: Path, pattern: str) -> Path:
    """The one directory under `packages` that matches `pattern`."""
    found = sorted(packages.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"error: {packages / pattern} matches {len(found)} directories, not one.")
    return found[0]


def concept_key(hexcode: str) -> str:
    """Code points in lower case without the variation selector, which sets treat differently."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def read_concepts(directory: Path) -> dict[str, dict]:
    """Key -> label, keywords, group and subgroup, in emoji order."""
    messages = read_json(directory / "en" / "messages.json")
    groups = {entry["order"]: entry["key"] for entry in messages["groups"]}
    subgroups = {entry["order"]: entry["key"] for entry in messages["subgroups"]}
    concepts = {}
    emoji = [entry for entry in read_json(directory / "en" / "data.json") if "group" in entry]
    for entry in sorted(emoji, key=lambda entry: entry["order"]):
        group, subgroup = groups[entry["group"]], subgroups[entry["subgroup"]]
        if group in EXCLUDED_GROUPS or subgroup in EXCLUDED_SUBGROUPS:
            continue
        concepts[concept_key(entry["hexcode"])] = {
            "label": entry["label"],
            "keywords": entry.get("tags", []),
            "group": group,
            "subgroup": subgroup,
        }
    return concepts


def short_ids(body: str) -> str:
    """`body` with its random element ids replaced by i0, i1, ...: packs better, compares."""
    names = {name: f"i{number}" for number, name in enumerate(dict.fromkeys(_ID.findall(body)))}
    for name, short in names.items():
        body = re.sub(rf'(id="|#){re.escape(name)}(?=["\)])', rf"\g<1>{short}", body)
    return body


def read_vectors(directory: Path, concepts: dict[str, dict]) -> dict[str, dict]:
    """Key -> SVG body and its box [left, top, width, height], in the order of `concepts`."""
    icons = read_json(directory / "icons.json")
    names = {concept_key(code): name for code, name in read_json(directory / "chars.json").items()}
    box = {"left": 0, "top": 0, "width": 16, "height": 16}
    box |= {side: icons[side] for side in box if side in icons}
    vectors, seen = {}, set()
    for key in sorted(concepts, key=lambda key: len(concepts[key]["label"])):
        icon = icons["icons"].get(names.get(key), {"hidden": True})
        body = short_ids(icon.get("body", ""))
        if icon.get("hidden") or body in seen:
            continue
        seen.add(body)
        vectors[key] = {"box": [icon.get(side, box[side]) for side in box], "body": body}
    return {key: vectors[key] for key in concepts if key in vectors}


def write(path: Path, content: object) -> None:
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    with replacing(path) as temporary:
        temporary.write_bytes(lzma.compress(data, preset=7 | lzma.PRESET_EXTREME))
    print(f"{path}: {len(content)} entries, {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True, help="of unpacked npm packages")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    concepts = read_concepts(only_match(arguments.packages, WORDS))
    drawn = set()
    for style, pattern in ICON_SETS.items():
        vectors = read_vectors(only_match(arguments.packages, pattern), concepts)
        drawn |= vectors.keys()
        write(arguments.output / f"{style}.json.xz", vectors)
    kept = {key: concept for key, concept in concepts.items() if key in drawn}
    write(arguments.output / "concepts.json.xz", kept)


if __name__ == "__main__":
    main()
