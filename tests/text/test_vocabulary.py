"""Vocabulary files that are refused, and vocabularies that are learned."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.text.vocabulary import (
    SPECIAL_TOKENS,
    check_vocabulary,
    learn_vocabulary,
    read_vocabulary,
)

SPECIAL = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"
REPOSITORY = Path(__file__).resolve().parents[2]


def write(tmp_path, content):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_reads_pieces_in_order(tmp_path, end):
    content = f"{SPECIAL}a\r\n##é\n\u2028\n#".encode() + end
    pieces = read_vocabulary(write(tmp_path, content))
    assert pieces == [*SPECIAL_TOKENS, "a", "##é", "\u2028", "#"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "an empty file: expected the special tokens"),
        (
            b"[UNK]\n[CLS]\n[SEP]\nx\n",
            r"expected .* found 4 pieces without \[PAD\] \[MASK\]",
        ),
        (
            SPECIAL.encode() + b"a\nb\na\n",
            r"line 8: expected every piece once, found 'a' again "
            r"\(first on line 6\)",
        ),
        (
            SPECIAL.encode() + b"a\n\nb\n",
            "line 7: expected one piece a line, found an empty line",
        ),
        (
            SPECIAL.encode() + b"a\ncaf\xe9\n",
            "line 7: expected UTF-8 text, found the byte 0xe9",
        ),
        (SPECIAL.encode() + b"a\nx\0y\n", "line 7: .* a NUL or half"),
        (SPECIAL.encode() + b"##" + b"a" * 257, "line 6: .* 256 bytes"),
    ],
)
def test_bad_file_names_place_and_reason(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=message) as error:
        WordpieceTokenizer.from_vocab_file(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="none.txt: expected a file"):
        read_vocabulary(tmp_path / "none.txt")
    with pytest.raises(InputError, match="vocab.txt"):
        WordpieceTokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("piece", ["a\nb", "\ud800"])
def test_piece_that_no_file_can_hold_is_refused(piece):
    with pytest.raises(InputError, match="line 6: .* in it"):
        check_vocabulary([*SPECIAL_TOKENS, piece])


def test_longest_piece_that_the_kernel_takes():
    tokenizer = WordpieceTokenizer(
        [*SPECIAL_TOKENS, "é" * 50, "##" + "字" * 85]
    )
    assert tokenizer.tokenize(["é"]).to_list() == [[tokenizer.unk_id]]


def test_little_text_gives_all_its_pieces():
    """Five words, worked by hand: every character, every word, no more."""
    pieces = learn_vocabulary(["Ab, ab!", "AB cd; cd 博", "é"], 1000)
    assert pieces == [
        *SPECIAL_TOKENS,
        *["!", ",", ";", "a", "b", "c", "d", "e", "博"],
        *["##a", "##b", "##c", "##d", "##e"],
        *["ab", "cd"],
    ]
    assert learn_vocabulary(["Ab é"], 1000, do_lower_case=False) == [
        *SPECIAL_TOKENS,
        *["A", "b", "é", "##A", "##b", "##é", "Ab"],
    ]


def synthetic_lines(seed=0, num_lines=400):
    """Stems with endings, frequencies by rank as in natural text."""
    rng = random.Random(seed)
    stems = [
        "".join(rng.choices("abcdefgh", k=rng.randint(2, 6)))
        for _ in range(300)
    ]
    weights = [1 / rank for rank in range(1, 301)]
    endings = ["", "", "ing", "ed", "ness"]
    return [
        " ".join(
            stem + rng.choice(endings)
            for stem in rng.choices(stems, weights, k=20)
        )
        for _ in range(num_lines)
    ]


def test_sizes_are_exact_nothing_is_unknown_and_more_pieces_shorten_text():
    lines = synthetic_lines()
    num_pieces = []
    for vocab_size in (50, 250, 700):
        pieces = learn_vocabulary(lines, vocab_size)
        assert len(pieces) == len(set(pieces)) == vocab_size
        assert tuple(pieces[:5]) == SPECIAL_TOKENS
        assert vocab_size != 250 or {"##ing", "##ed", "##ness"} <= set(pieces)
        tokenizer = WordpieceTokenizer(pieces)
        ids = tokenizer.tokenize(lines)
        assert tokenizer.unk_id not in ids.flat_values.numpy()
        for line, row in zip(lines, ids.to_list(), strict=True):
            assert tokenizer.decode(row) == line
        num_pieces.append(len(ids.flat_values))
    assert num_pieces == sorted(num_pieces, reverse=True)
    # 8,000 words: nearly one piece each when 700 pieces hold most of them.
    assert num_pieces[-1] < 1.3 * 8000 < num_pieces[0]


@pytest.mark.parametrize("vocab_size", [25, 200, 5000])
def test_order_of_lines_does_not_matter(vocab_size):
    """With too few characters, about the right size, and too few words."""
    lines = synthetic_lines()
    shuffled = random.Random(1).sample(lines, len(lines))
    pieces = learn_vocabulary(lines, vocab_size)
    assert learn_vocabulary(shuffled, vocab_size) == pieces


def test_alphabet_is_limited_by_room_and_by_share():
    """A quarter of 40 pieces by count, then by code; none but "z" is common."""
    rare = "".join(map(chr, range(ord("а"), ord("а") + 12)))
    pieces = learn_vocabulary(["z " * 2_000_000, *rare], 40)
    letters = [*sorted(rare)[:9], "z"]
    assert pieces[5:25] == [
        "z",
        *letters[:9],
        "##z",
        *(f"##{x}" for x in letters[:9]),
    ]
    # With room for four characters and their continuations only.
    assert len(learn_vocabulary([*rare], 13)) == 13


def unknown_share(pieces, lines, **casing):
    tokenizer = WordpieceTokenizer(pieces, **casing)
    ids = tokenizer.tokenize(lines).flat_values.numpy()
    return (ids == tokenizer.unk_id).mean()


@pytest.mark.parametrize(
    "first, number, word, size",
    [("一", 1000, 20, 1005), ("가", 1000, 4, 2005), ("あ", 80, 6, 165)],
)
def test_scripts_of_many_characters(first, number, word, size):
    """Each character as often as any other, and there is room for all."""
    characters = [chr(ord(first) + index) for index in range(number)]
    lines = [
        "".join(characters[(7 * i + j) % number] for j in range(word))
        for i in range(number)
    ]
    pieces = learn_vocabulary(lines, 4000, do_lower_case=False)
    assert unknown_share(pieces, lines, do_lower_case=False) == 0
    assert set(characters) <= set(pieces) and len(pieces) >= size


def test_hash_seed_does_not_matter():
    """Of pairs that are equally frequent, another process takes the same.

    The trainer's tables have random seeds of their own; so has Python.
    """
    program = (
        "import sys\n"
        "from mobilebert_tf.text.vocabulary import learn_vocabulary\n"
        "lines = sys.stdin.read().split(chr(10))\n"
        "print(' '.join(learn_vocabulary(lines, 200)))\n"
    )
    rng = random.Random(0)
    lines = ["".join(rng.choices("abcdefghijkl", k=6)) for _ in range(500)]
    result = subprocess.run(
        [sys.executable, "-c", program],
        input="\n".join(lines),
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == learn_vocabulary(lines, 200)


def test_no_room_or_no_text_is_refused():
    with pytest.raises(InputError, match="room for characters, found 6"):
        learn_vocabulary(["abcdefgh abcdefgh"], 6)
    with pytest.raises(InputError, match="expected words, found none"):
        learn_vocabulary(["", " \t\x00"], 100)


def test_real_text(shared_data):
    """On half a megabyte of articles; unknown words on another part."""
    path = shared_data / "corpus/wikipedia.docs.txt"
    lines = path.read_text(encoding="utf-8").split("\n")
    pieces = learn_vocabulary(lines[:700], 2000)
    assert len(pieces) == 2000
    tokenizer = WordpieceTokenizer(pieces)
    ids = tokenizer.tokenize(lines[10000:11000]).flat_values.numpy()
    assert (ids == tokenizer.unk_id).mean() < 0.002
