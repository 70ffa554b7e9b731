"""Windows against the original BERT's description, followed word by word."""

import unicodedata

import numpy as np
import pytest

from mobilebert_tf.tasks.squad import Answer, Questions, read_squad
from mobilebert_tf.tasks.squad_windows import label_windows, make_windows
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] who ? a b c d e f g h ##s 1950".split()
PAD, CLS, SEP, WHO, MARK, A = 0, 2, 3, 5, 6, 7
LETTERS = "a b c d e f g h"
OFFICIAL = {"max_seq_length": 384, "doc_stride": 128, "max_query_length": 64}


@pytest.fixture(scope="module")
def tokenizer():
    return WordpieceTokenizer(VOCAB)


def questions_about(contexts, texts=None, answers=None):
    index = np.arange(len(contexts))
    ids = [f"q{number}" for number in index]
    texts = texts or ["who?"] * len(contexts)
    return Questions(contexts, index, ids, texts, answers)


def windows_of(contexts, tokenizer, length=10, stride=2, query=2, **kwargs):
    questions = questions_about(contexts, **kwargs)
    windows = make_windows(
        questions,
        tokenizer,
        max_seq_length=length,
        doc_stride=stride,
        max_query_length=query,
    )
    return questions, windows


def test_layout_by_hand(tokenizer):
    _, windows = windows_of([LETTERS, "a b"], tokenizer)
    arrays = windows.inputs(np.arange(len(windows)), 10)
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
        assert windows.lengths[row] == len(used)
    assert {array.dtype for array in arrays.values()} == {np.dtype("int32")}


def test_max_context_by_hand(tokenizer):
    """Of `c d e`, in the windows a-e and c-g, each side counts."""
    _, windows = windows_of([LETTERS], tokenizer)
    mask = windows.max_context_mask(10)
    shown = [
        "".join(LETTERS[2 * (piece - A)] for piece in row[marked])
        for row, marked in zip(
            windows.inputs(np.arange(3), 10)["input_ids"], mask, strict=True
        )
    ]
    # d: 1 on its poorer side in a-e, 1 in c-g: a tie, the first has it.
    # e: 0 in a-e, 2 in c-g, 0 in e-h. f: 1 in c-g, 1 in the shorter e-h.
    assert shown == ["abcd", "ef", "gh"]
    # Only context is ever marked, and each piece once.
    assert not (mask & ~windows.context_mask(10)).any()


def test_a_long_question_is_cut(tokenizer):
    _, windows = windows_of(
        [LETTERS], tokenizer, query=3, texts=["who who a b c ?"]
    )
    row = windows.inputs(np.array([0]), 10)["input_ids"][0]
    assert row[:5].tolist() == [CLS, WHO, WHO, A, SEP]


def test_a_stride_beyond_the_window_leaves_no_gap(tokenizer):
    _, windows = windows_of([LETTERS], tokenizer, stride=50)
    assert windows.first_pieces.tolist() == [0, 5]
    assert windows.max_context_mask(10).sum() == 8


def test_a_context_of_no_piece_makes_one_window(tokenizer):
    _, windows = windows_of(["\u200b", "a"], tokenizer)
    row = windows.inputs(np.array([0]), 10)["input_ids"][0]
    assert row.tolist() == [CLS, WHO, MARK, SEP, SEP, 0, 0, 0, 0, 0]
    assert windows.question_index.tolist() == [0, 1]
    assert windows.context_mask(10).sum(axis=1).tolist() == [0, 1]


def test_spans_stand_where_the_text_says(tokenizer):
    # Dropped, decomposed and composed characters shift what follows.
    context = "a\u0301 \u200bb\u0301s 1950s \u00e9 d"
    _, windows = windows_of([context], tokenizer, length=30)
    first = windows.first_columns[0]
    columns = np.arange(first, first + windows.num_pieces[0])
    rows = np.zeros_like(columns)
    spans = zip(*windows.characters(rows, columns, columns), strict=True)
    assert [context[start:end] for start, end in spans] == [
        "a\u0301",
        "b\u0301",
        "s",
        "1950",
        "s",
        "\u00e9",
        "d",
    ]


@pytest.mark.parametrize(
    "settings", [{"stride": 0}, {"query": 0}, {"length": 5}]
)
def test_impossible_sizes_are_refused(settings, tokenizer):
    with pytest.raises(ValueError, match="Received"):
        windows_of([LETTERS], tokenizer, **settings)


def label(context, answer, start, tokenizer, length=10, limit=30):
    questions, windows = windows_of(
        [context], tokenizer, length, answers=[[Answer(answer, start)]]
    )
    labels, counts = label_windows(windows, questions, limit)
    positions = zip(*(array.tolist() for array in labels.values()), strict=True)
    return list(positions), counts


def test_labels_by_hand(tokenizer):
    positions, counts = label(LETTERS, "d e", 6, tokenizer)
    # a-e at columns 4 to 8, c-g, e-h: the last does not hold all of it.
    assert positions == [(7, 8), (5, 6), (0, 0)]
    # One piece beyond the end of a-e, and one before e-h.
    assert label(LETTERS, "e f", 8, tokenizer)[0] == [(0, 0), (6, 7), (4, 5)]
    assert counts.num_questions == 1
    assert str(counts) == "1 questions"


def test_an_answer_cut_inside_a_piece_is_covered_and_counted(tokenizer):
    positions, counts = label("a 1950s b", "1950", 2, tokenizer)
    assert positions == [(5, 5)] and counts.num_cut == 0
    positions, counts = label("a 1950s b", "95", 3, tokenizer)
    assert positions == [(5, 5)] and counts.num_cut == 1
    positions, counts = label("a 1950s b", "50s b", 4, tokenizer)
    assert positions == [(5, 7)] and counts.num_cut == 1
    assert str(counts) == "1 questions, 1 cut inside a word piece"


def test_spaces_around_an_answer_cut_nothing(tokenizer):
    positions, counts = label("a b c", " b ", 1, tokenizer)
    assert positions == [(5, 5)] and counts.num_cut == 0


def test_an_answer_longer_than_every_window_is_counted(tokenizer):
    positions, counts = label(LETTERS, "b c d e f g", 2, tokenizer)
    assert set(positions) == {(0, 0)}
    assert counts.num_without_window == 1
    assert "1 in no window" in str(counts)


def test_an_answer_of_dropped_characters_is_counted(tokenizer):
    positions, counts = label("a \u200b b", "\u200b", 2, tokenizer)
    assert positions == [(0, 0)]
    assert counts.num_without_pieces == 1


def test_an_answer_too_long_to_predict_is_counted(tokenizer):
    _, counts = label(LETTERS, "b c", 2, tokenizer, limit=2)
    assert counts.num_overlong == 0
    positions, counts = label(LETTERS, "b c", 2, tokenizer, limit=1)
    assert positions[0] == (5, 6) and counts.num_overlong == 1


def test_questions_without_answers_are_labelled_at_cls(tokenizer):
    questions, windows = windows_of(
        ["a b", "c d"], tokenizer, answers=[[], [Answer("d", 2)]]
    )
    labels, counts = label_windows(windows, questions, 30)
    assert labels["start_positions"].tolist() == [0, 5]
    assert counts.num_unanswerable == 1 and counts.num_without_window == 0


def read_dev(shared_data):
    tokenizer = WordpieceTokenizer.from_vocab_file(
        shared_data / "vocab/bert-base-uncased-vocab.txt"
    )
    questions = read_squad(shared_data / "squad/dev-v1.1.json")
    return tokenizer, questions, make_windows(questions, tokenizer, **OFFICIAL)


def original_words(text):
    """Splits as the original does, at these five kinds of space alone."""
    for space in "\t\r\n\u202f":
        text = text.replace(space, " ")
    return [word for word in text.split(" ") if word]


def original_windows(questions, tokenizer):
    """The original's features: ids, masks, segments, widest contexts.

    Written from its description: words to pieces one word at a time, windows
    by two running numbers, the widest context by trying all windows.
    """
    texts = questions.contexts + questions.texts
    words = sorted({word for text in texts for word in original_words(text)})
    pieces = dict(zip(words, tokenizer.tokenize(words).to_list(), strict=True))

    def tokenized(text):
        return [p for word in original_words(text) for p in pieces[word]]

    contexts = [tokenized(text) for text in questions.contexts]
    for index, text in enumerate(questions.texts):
        query = tokenized(text)[:64]
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
            yield (
                index,
                ids + padding,
                [1] * len(ids) + padding,
                segments + padding,
                widest + padding,
            )


CLS_ID, SEP_ID = 101, 102


def widest_window(spans, place):
    best, best_score = None, None
    for number, (start, length) in enumerate(spans):
        end = start + length - 1
        if start <= place <= end:
            score = min(place - start, end - place) + 0.01 * length
            if best is None or score > best_score:
                best, best_score = number, score
    return best


def test_the_official_dev_set_is_laid_out_as_the_original_does(shared_data):
    tokenizer, questions, windows = read_dev(shared_data)
    assert len(windows) == 10_833
    arrays = windows.inputs(np.arange(len(windows)), 384)
    widest = windows.max_context_mask(384)
    expected = original_windows(questions, tokenizer)
    for row, window in enumerate(expected):
        index, ids, mask, segments, is_widest = window
        assert windows.question_index[row] == index
        assert arrays["input_ids"][row].tolist() == ids, questions.ids[index]
        assert arrays["input_mask"][row].tolist() == mask
        assert arrays["segment_ids"][row].tolist() == segments
        assert widest[row].tolist() == is_widest, questions.ids[index]
    assert row == len(windows) - 1


def test_official_answers_are_found_again_in_their_windows(shared_data):
    _, questions, windows = read_dev(shared_data)
    labels, counts = label_windows(windows, questions, 30)
    starts, ends = labels["start_positions"], labels["end_positions"]
    rows = np.flatnonzero(ends)
    found = set()
    for row, start, end in zip(
        rows, *windows.characters(rows, starts[rows], ends[rows]), strict=True
    ):
        question = windows.question_index[row]
        text, place = questions.answers[question][0]
        # A trailing accent belongs to the letter before it.
        context = questions.context(question)
        same = (start, end) == (place, place + len(text))
        covers = start <= place and place + len(text) <= end
        assert covers, questions.ids[question]
        assert not unicodedata.combining(context[start])
        if same:
            found.add(question)
    assert counts.num_without_window == counts.num_without_pieces == 0
    assert len(found) == 10_570 - counts.num_cut
    assert counts.num_cut < 100
