"""What an uncased vocabulary drops from a text besides its case.

Uncased normalization strips every combining mark. English, German and French
read well without; Hindi loses its vowels, and in Japanese and Russian different
words become one.
"""

import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable

from mobilebert_tf.errors import InputError

# Marks per 100 letters. French has 3.4, German 1.3, English next to none.
_MENTIONED = 0.5
_REFUSED = 5
_MOST_NAMED = 3
# Text to count in, some 100 MB.
_MOST_LINES = 1_000_000


def check_uncased(lines: Iterable[str]) -> None:
    """Says which marks of a text an uncased vocabulary drops, if many.

    For a user who named no casing: the default is uncased.

    Raises:
        InputError: there are more than 5 marks per 100 letters.
    """
    characters, marks, num_letters = Counter(), Counter(), 0
    for line in itertools.islice(lines, _MOST_LINES):
        characters.update(line)
    for character, count in characters.items():
        for part in unicodedata.normalize("NFD", character):
            category = unicodedata.category(part)
            num_letters += count * (category[0] == "L")
            if category == "Mn":
                marks[part] += count
    rate = 100 * marks.total() / max(1, num_letters)
    if rate < _MENTIONED:
        return
    ranked = sorted((-count, mark) for mark, count in marks.items())
    names = [
        unicodedata.name(mark, ascii(mark)).lower()
        for _, mark in ranked[:_MOST_NAMED]
    ]
    dropped = f"{rate:.1f} marks per 100 letters of this text"
    most = f"mostly {', '.join(names)}"
    if rate > _REFUSED:
        raise InputError(
            "--do_lower_case",
            "--nodo_lower_case, which keeps marks, or --do_lower_case, which "
            "drops them",
            f"neither, and {dropped} ({most})",
        )
    print(
        f"uncased drops {dropped} ({most}); --nodo_lower_case keeps them",
        flush=True,
    )
