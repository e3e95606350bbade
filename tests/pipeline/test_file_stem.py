"""Names of files from prompts: of any script, apart from each other, and harmless."""

import pytest

from imagen_jax.pipeline.file_stem import file_stem


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a red apple", "a-red-apple"),
        ("A Café, café", "a-café-café"),
        ("яблоко 🍎", "яблоко-red-apple"),
        ("红苹果", "红苹果"),
        ("تفاحة حمراء", "تفاحة-حمراء"),
        ("हिन्दी सेब", "हिन्दी-सेब"),
        ("🚀", "rocket"),
        ("❤️", "heavy-black-heart"),
        ("../../etc/passwd", "etc-passwd"),
        ("a\nb\x00c", "a-b-c"),
        ("\u202eabc\u2028d", "abc-d"),
        ("CON", "con"),
        ("...", ""),
        ("", ""),
    ],
)
def test_letters_and_digits_of_any_script_stay(prompt, words):
    assert file_stem(3, prompt, 1) == f"03-{words}-1"


def test_composed_and_decomposed_letters_are_the_same():
    assert file_stem(0, "cafe\u0301", 0) == file_stem(0, "caf\u00e9", 0)


@pytest.mark.parametrize("prompt", ["x" * 300, "红" * 300, "é" * 300, "🚀" * 300, "e\u0301" * 300])
def test_a_long_prompt_is_cut_between_letters(prompt):
    name = file_stem(12, prompt, 3)
    assert 20 < len(name.encode()) <= 110 and name.startswith("12-") and name.endswith("-3")
    assert "\ufffd" not in name


def test_a_file_system_without_these_letters_gets_a_name_too(monkeypatch):
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    assert file_stem(0, "红 apple", 0) == "00-apple-0"
    assert file_stem(1, "红", 0) == "01--0"
