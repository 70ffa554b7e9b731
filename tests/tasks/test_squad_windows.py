"""Windows against the original BERT's description, followed word by word."""

import unicodedata

import numpy as np
import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.squad import Answer, Questions, read_squad
from mobilebert_tf.tasks.squad_windows import (
    SquadSettings,
    bucket_lengths,
    label_windows,
    make_windows,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] who ? a b c d e f g h ##s 1950".split()
PAD, CLS, SEP, WHO, MARK, A = 0, 2, 3, 5, 6, 7
LETTERS = "a b c d e f g h"


@pytest.fixture(scope="module")
def tokenizer():
    return WordpieceTokenizer(VOCAB)


def windows_of(
    contexts, tokenizer, length=10, stride=2, query=2, text="who?", answers=None
):
    index = np.arange(len(contexts))
    ids = [f"q{number}" for number in index]
    questions = Questions(contexts, index, ids, [text] * len(ids), answers)
    settings = SquadSettings(length, stride, query)
    return questions, make_windows(questions, tokenizer, settings)


def test_layout_by_hand(tokenizer):
    _, windows = windows_of([LETTERS, "a b"], tokenizer)
    arrays = windows.inputs()
    letters = [
        [A, A + 1, A + 2, A + 3, A + 4],
        [A + 2, A + 3, A + 4, A + 5, A + 6],
        [A + 4, A + 5, A + 6, A + 7],
        [A, A + 1],
    ]
    assert windows.question_index.tolist() == [0, 0, 0, 1]
    for row, context in enumerate(letters):
        used = [CLS, WHO, MARK, SEP, *context, SEP]
        padding = [0] * (10 - len(used))
        assert arrays["input_ids"][row].tolist() == used + padding
        mask = [1] * len(used) + padding
        assert arrays["input_mask"][row].tolist() == mask
        segments = [0] * 4 + [1] * (len(context) + 1) + padding
        assert arrays["segment_ids"][row].tolist() == segments
    assert {array.dtype for array in arrays.values()} == {np.dtype("int32")}


def test_max_context_by_hand(tokenizer):
    """In the windows a-e, c-g and e-h each piece's poorer side counts."""
    _, windows = windows_of([LETTERS], tokenizer)
    mask = windows.max_context_mask()
    ids = windows.inputs()["input_ids"]
    shown = [
        "".join(LETTERS[2 * (piece - A)] for piece in row[marked])
        for row, marked in zip(ids, mask, strict=True)
    ]
    # d: 1 on its poorer side in a-e, 1 in c-g: a tie, the first has it.
    # e: 0 in a-e, 2 in c-g, 0 in e-h. f: 1 in c-g, 1 in the shorter e-h.
    assert shown == ["abcd", "ef", "gh"]
    # Only context is ever marked, and each piece once.
    assert not (mask & ~windows.context_mask()).any()


def test_a_long_question_is_truncated(tokenizer):
    _, windows = windows_of([LETTERS], tokenizer, query=3, text="who who a b ?")
    row = windows.inputs()["input_ids"][0]
    assert row[:5].tolist() == [CLS, WHO, WHO, A, SEP]


def test_a_stride_beyond_the_window_leaves_no_gap(tokenizer):
    _, windows = windows_of([LETTERS], tokenizer, stride=50)
    assert windows.parts.starts.tolist() == [0, 5]
    assert windows.max_context_mask().sum() == 8


def test_a_context_without_pieces_makes_one_window(tokenizer):
    _, windows = windows_of(["\u200b", "a"], tokenizer)
    row = windows.inputs()["input_ids"][0]
    assert row.tolist() == [CLS, WHO, MARK, SEP, SEP, 0, 0, 0, 0, 0]
    assert windows.question_index.tolist() == [0, 1]
    assert windows.context_mask().sum(axis=1).tolist() == [0, 1]


def test_spans_stand_where_the_text_says(tokenizer):
    # Dropped, decomposed and composed characters shift what follows.
    context = "a\u0301 \u200bb\u0301s 1950s \u00e9 d"
    _, windows = windows_of([context], tokenizer, length=30)
    first = windows.first_columns[0]
    columns = np.arange(first, first + windows.parts.lengths[0])
    rows = np.zeros_like(columns)
    spans = zip(*windows.characters(rows, columns, columns), strict=True)
    found = [context[start:end] for start, end in spans]
    assert found == ["a\u0301", "b\u0301", "s", "1950", "s", "\u00e9", "d"]


def test_questions_that_leave_no_room_are_refused(tokenizer):
    with pytest.raises(InputError, match="--max_query_length: expected at mo"):
        windows_of([LETTERS], tokenizer, length=5)


def test_widths_are_few_and_end_with_the_longest():
    assert bucket_lengths(384) == (128, 192, 256, 384)
    assert bucket_lengths(128) == (48, 64, 88, 128)
    assert bucket_lengths(10) == (8, 10)


# Context, answer, its start and the most pieces of a prediction; then labels by
# window, and why an answer is not learned as it is.
LABELS = [
    # a-e is at columns 4 to 8, then c-g, then e-h.
    (LETTERS, "d e", 6, 30, [(7, 8), (5, 6), (0, 0)], None),
    # One piece beyond the end of a-e, and one before e-h.
    (LETTERS, "e f", 8, 30, [(0, 0), (6, 7), (4, 5)], None),
    ("a 1950s b", "1950", 2, 30, [(5, 5)], None),
    ("a 1950s b", "95", 3, 30, [(5, 5)], "cut inside a word piece"),
    ("a 1950s b", "50s b", 4, 30, [(5, 7)], "cut inside a word piece"),
    ("a b c", " b ", 1, 30, [(5, 5)], None),
    (LETTERS, "b c d e f g", 2, 30, [(0, 0)] * 3, "in no window"),
    ("a \u200b b", "\u200b", 2, 30, [(0, 0)], "of no word piece"),
    (LETTERS, "b c", 2, 2, [(5, 6), (0, 0), (0, 0)], None),
    (LETTERS, "b c", 2, 1, [(5, 6), (0, 0), (0, 0)], "too long to predict"),
    ("a b", None, 0, 30, [(0, 0)], "without an answer"),
]


@pytest.mark.parametrize("context, answer, start, limit, wanted, case", LABELS)
def test_labels_by_hand(context, answer, start, limit, wanted, case, tokenizer):
    answers = [[] if answer is None else [Answer(answer, start)]]
    questions, windows = windows_of([context], tokenizer, answers=answers)
    labels, counts = label_windows(windows, questions, limit)
    positions = zip(*(array.tolist() for array in labels.values()), strict=True)
    assert list(positions) == wanted
    assert {name for name, number in counts.items() if number} == (
        {case} if case else set()
    )


CLS_ID, SEP_ID = 101, 102


def original_words(text):
    """Splits as the original does, at these five kinds of space alone."""
    for space in "\t\r\n\u202f":
        text = text.replace(space, " ")
    return [word for word in text.split(" ") if word]


def original_windows(questions, tokenizer, step):
    """Features of each `step`-th question: ids, masks, segments, contexts.

    Written from its description: words to pieces one word at a time, windows
    by two running numbers, the widest context by trying all windows.
    """
    texts = questions.contexts + questions.texts
    words = sorted({word for text in texts for word in original_words(text)})
    pieces = dict(zip(words, tokenizer.tokenize(words).to_list(), strict=True))

    def tokenized(text):
        return [p for word in original_words(text) for p in pieces[word]]

    contexts = [tokenized(text) for text in questions.contexts]
    for index in range(0, len(questions), step):
        query = tokenized(questions.texts[index])[:64]
        context = contexts[questions.context_index[index]]
        room = 384 - len(query) - 3
        spans, start = [], 0
        while start < len(context):
            length = min(len(context) - start, room)
            spans.append((start, length))
            if start + length == len(context):
                break
            start += min(length, 128)
        for number, (start, length) in enumerate(spans):
            ids = [CLS_ID, *query, SEP_ID]
            segments = [0] * len(ids)
            widest = [False] * len(ids)
            for place in range(start, start + length):
                ids.append(context[place])
                segments.append(1)
                widest.append(widest_window(spans, place) == number)
            ids.append(SEP_ID)
            segments.append(1)
            widest.append(False)
            padding = [0] * (384 - len(ids))
            rows = (ids, [1] * len(ids), segments, widest)
            yield index, *(row + padding for row in rows)


def widest_window(spans, place):
    best, best_score = None, None
    for number, (start, length) in enumerate(spans):
        end = start + length - 1
        if start <= place <= end:
            score = min(place - start, end - place) + 0.01 * length
            if best is None or score > best_score:
                best, best_score = number, score
    return best


@pytest.fixture(scope="module")
def official(shared_data):
    """The official dev questions, their tokenizer and their windows."""
    tokenizer = WordpieceTokenizer.from_vocab_file(
        shared_data / "vocab/bert-base-uncased-vocab.txt"
    )
    questions = read_squad(shared_data / "squad/dev-v1.1.json")
    windows = make_windows(questions, tokenizer, SquadSettings())
    return questions, tokenizer, windows


def test_the_official_dev_set_is_laid_out_as_the_original_does(official):
    questions, tokenizer, windows = official
    assert len(windows) == 10_833
    arrays = windows.inputs()
    widest = windows.max_context_mask()
    rows = np.flatnonzero(windows.question_index % 3 == 0)
    expected = original_windows(questions, tokenizer, 3)
    for row, window in zip(rows, expected, strict=True):
        index, ids, mask, segments, is_widest = window
        assert windows.question_index[row] == index
        assert arrays["input_ids"][row].tolist() == ids, questions.ids[index]
        assert arrays["input_mask"][row].tolist() == mask
        assert arrays["segment_ids"][row].tolist() == segments
        assert widest[row].tolist() == is_widest, questions.ids[index]


def test_official_answers_are_found_again_in_their_windows(official):
    questions, _, windows = official
    labels, counts = label_windows(windows, questions, 30)
    starts, ends = labels["start_positions"], labels["end_positions"]
    rows = np.flatnonzero(ends)
    found = set()
    for row, start, end in zip(
        rows, *windows.characters(rows, starts[rows], ends[rows]), strict=True
    ):
        question = windows.question_index[row]
        text, place = questions.answers[question][0]
        context = questions.context(question)
        covers = start <= place and place + len(text) <= end
        assert covers, questions.ids[question]
        # A trailing accent belongs to the letter before it.
        assert not unicodedata.combining(context[start])
        if (start, end) == (place, place + len(text)):
            found.add(question)
    assert counts["in no window"] == counts["of no word piece"] == 0
    assert len(found) == 10_570 - counts["cut inside a word piece"]
    assert counts["cut inside a word piece"] < 100
