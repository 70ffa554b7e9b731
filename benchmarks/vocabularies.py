r"""Vocabularies learned here and by Hugging Face's trainer, by language.

    python -m benchmarks.vocabularies --languages=zh,ja,ko

Lines of twelve words are drawn by the frequencies of `wordfreq` (which has no
Thai); most train, the rest are held out. The peer is `BertWordPieceTrainer`
with its defaults and an alphabet of up to 6,000 characters, for which it
exceeds the size asked for. English and German are uncased. Printed are the
sizes got, the share of words that are [UNK] and the pieces a word on held-out
lines, cut by one tokenizer.
"""

import dataclasses
import itertools
import random
from collections.abc import Sequence

import tokenizers

from benchmarks.instruments import print_header, print_row, start
from mobilebert_tf.options import Options, option
from mobilebert_tf.text.normalization import normalize, split_words
from mobilebert_tf.text.vocabulary import learn_vocabulary

PEER_ALPHABET = 6000
WORDS_A_LINE = 12
UNSPACED = ("zh", "ja")
UNCASED = ("en", "de")


@dataclasses.dataclass(frozen=True)
class VocabularyOptions(Options):
    """The text and the sizes."""

    languages: tuple[str, ...] = option(
        ("zh", "ja", "ko", "hi", "ru", "ar", "de", "en"), "Codes of languages."
    )
    sizes: tuple[int, ...] = option((4000, 8000), "Sizes asked for.", min=100)
    num_lines: int = option(8000, "Lines to learn from.", min=1)
    num_held_out: int = option(1000, "Lines to measure on.", min=1)
    seed: int = option(0, "Seed of the lines.", min=0)


def draw_lines(language: str, number: int, seed: int) -> list[str]:
    """Returns lines of words that are as frequent as in the language."""
    import wordfreq

    frequencies = wordfreq.get_frequency_dict(language, wordlist="best")
    ranked = sorted(frequencies.items(), key=lambda item: (-item[1], item[0]))
    words = [word for word, _ in ranked]
    sums = list(itertools.accumulate(frequency for _, frequency in ranked))
    rng = random.Random(seed)
    space = "" if language in UNSPACED else " "
    return [
        space.join(rng.choices(words, cum_weights=sums, k=WORDS_A_LINE))
        for _ in range(number)
    ]


def peers_vocabulary(lines: Sequence[str], size: int, lower: bool) -> list[str]:
    """Learns with Hugging Face's trainer."""
    peer = tokenizers.BertWordPieceTokenizer(lowercase=lower)
    peer.train_from_iterator(
        lines,
        vocab_size=size,
        limit_alphabet=PEER_ALPHABET,
        show_progress=False,
    )
    ids = peer.get_vocab()
    return sorted(ids, key=ids.get)


def measure(pieces: Sequence[str], lines: Sequence[str], lower: bool) -> tuple:
    """Returns the percentage of unknown words, and the pieces a word."""
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = tokenizers.BertWordPieceTokenizer(ids, lowercase=lower)
    found = [
        piece
        for line in lines
        for piece in tokenizer.encode(line, add_special_tokens=False).tokens
    ]
    words = sum(len(split_words(normalize(line, lower))) for line in lines)
    return 100 * found.count("[UNK]") / words, len(found) / words


def main(options: VocabularyOptions) -> None:
    """Learns and measures each vocabulary, and prints a row."""
    columns = ["size", "% [UNK]", "pieces"]
    columns += [f"peer: {column}" for column in columns]
    print_header("language, size asked for", columns)
    for language in options.languages:
        number = options.num_lines + options.num_held_out
        lines = draw_lines(language, number, options.seed)
        train, held_out = lines[: options.num_lines], lines[options.num_lines :]
        lower = language in UNCASED
        for size in options.sizes:
            row = []
            for learn in (learn_vocabulary, peers_vocabulary):
                pieces = learn(train, size, lower)
                row += [len(pieces), *measure(pieces, held_out, lower)]
            values = dict(zip(columns, row, strict=True))
            print_row(f"{language} {size:,}", values, digits=3)


if __name__ == "__main__":
    start(main, VocabularyOptions, __doc__)
