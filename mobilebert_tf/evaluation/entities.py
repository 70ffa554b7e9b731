"""Tags as entities, and their precision, recall and F1.

Owns the reading of tags, right and predicted alike, as the CoNLL shared tasks'
`conlleval` reads them: whatever a model says is some sequence of entities.
Counting is nervaluate's, by its strict rule: an entity is right if its first
token, its last and its type are.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import nervaluate

Tags = Sequence[Sequence[str]]

# BILOU's letters for what BIOES calls E and S.
_LETTERS = {"L": "E", "U": "S"}


class Entity(NamedTuple):
    """Tokens `start` to `end`, this one left out, and what they are."""

    kind: str
    start: int
    end: int


def entities(tags: Sequence[str]) -> list[Entity]:
    """Reads the tags of a sentence, in IOB1, IOB2, BIOES or BILOU.

    An entity goes on as long as the type stays the same and nothing says that
    one ends or another begins; I-TYPE, or E-TYPE, may begin one too.
    """
    found = []
    before, kind_before = "O", ""
    for index, tag in enumerate(tags):
        letter, _, kind = tag.partition("-")
        letter = _LETTERS.get(letter, letter)
        if letter == "O":
            kind = ""
        elif letter in "BS" or before in "OES" or kind != kind_before:
            found.append(Entity(kind, index, index + 1))
        else:
            found[-1] = found[-1]._replace(end=index + 1)
        before, kind_before = letter, kind
    return found


def accuracy(tags: Tags, predictions: Tags) -> float:
    """Share of tokens with the right tag."""
    pairs = _pairs(tags, predictions)
    return sum(tag == prediction for tag, prediction in pairs) / len(pairs)


def entity_metrics(tags: Tags, predictions: Tags) -> dict[str, float]:
    """Scores predicted tags.

    Args:
        tags: the right ones of each sentence.
        predictions: as many for each.

    Returns:
        `precision`, `recall` and `f1` of entities, 0.0 where there is nothing
        to divide by, and `accuracy` of the tokens.

    Raises:
        ValueError: if the two differ in length or are empty.
    """
    strict = _evaluate(tags, predictions)["overall"]["strict"]
    return _scores(strict) | {"accuracy": accuracy(tags, predictions)}


def metrics_by_type(
    tags: Tags, predictions: Tags
) -> dict[str, dict[str, float]]:
    """`precision`, `recall` and `f1` of each type, in alphabetical order."""
    by_type = _evaluate(tags, predictions)["entities"]
    return {kind: _scores(by_type[kind]["strict"]) for kind in sorted(by_type)}


def most_frequent_tags(
    tokens: Tags, tags: Tags, new_tokens: Tags
) -> list[list[str]]:
    """Tags new tokens as each was tagged most often: what a list knows.

    A token that was not seen is O, or, where that is no tag, gets the most
    frequent one of all.
    """
    counts: dict[str, Counter] = {}
    for token, tag in _pairs(tokens, tags):
        counts.setdefault(token, Counter())[tag] += 1
    usual = {token: max(sorted(c), key=c.get) for token, c in counts.items()}
    total = sum(counts.values(), Counter())
    unseen = "O" if "O" in total else max(sorted(total), key=total.get)
    return [[usual.get(token, unseen) for token in some] for some in new_tokens]


def _evaluate(tags: Tags, predictions: Tags) -> dict:
    _pairs(tags, predictions)
    sides = [
        [
            # Its `end` is the last token.
            [
                {"label": kind, "start": start, "end": end - 1}
                for kind, start, end in entities(some)
            ]
            for some in side
        ]
        for side in (tags, predictions)
    ]
    kinds = {each["label"] for side in sides for some in side for each in some}
    evaluator = nervaluate.Evaluator(*sides, tags=list(kinds), loader="dict")
    return evaluator.evaluate()


def _scores(result) -> dict[str, float]:
    return {
        "precision": float(result.precision),
        "recall": float(result.recall),
        "f1": float(result.f1),
    }


def _pairs(first: Tags, second: Tags) -> list[tuple[str, str]]:
    """The tokens of both side by side."""
    pairs = [
        pair
        for one, other in zip(first, second, strict=True)
        for pair in zip(one, other, strict=True)
    ]
    if not pairs:
        raise ValueError("there is no token to compare")
    return pairs
