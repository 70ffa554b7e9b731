"""Taggers: losses, predictions in their places, and what a task decides."""

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.config import inputs_of
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.losses import dividing_by
from mobilebert_tf.tasks import tagging
from mobilebert_tf.tasks.conll import Sentences, read_sentences
from mobilebert_tf.tasks.tagging import TaggingOptions, TaggingTask
from mobilebert_tf.tasks.task import Actions
from tests import tiny

NAMES = ("O", "B-X", "I-X")
TRAIN = "the O\ncat B-X\nsat I-X\n\nmat O\n"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def model():
    model = mb.MobileBertForTokenClassification(tiny.student_config(), NAMES)
    tiny.randomise(model, np.random.default_rng(0))
    return model


def lines_of(tokens):
    return [[1] * len(some) for some in tokens]


def sentences(number, seed=0):
    """Random tokens of one or more pieces, with random tags."""
    rng = np.random.default_rng(seed)
    words = ["the", "cat", "sat", "xy", "not", "zebra"]
    tokens = [rng.choice(words, rng.integers(1, 30)) for _ in range(number)]
    tags = [rng.choice(NAMES, len(some)).tolist() for some in tokens]
    tokens = [some.tolist() for some in tokens]
    return Sentences("tiny", tokens, tags, lines_of(tokens))


def split(tokens, tags, tokenizer):
    """The arrays of a dev split."""
    dev = Sentences("tiny", tokens, tags, lines_of(tokens))
    return TaggingTask(NAMES, {"dev": dev}, tokenizer, 24).splits["dev"]


def test_parts_of_a_batch_add_up(tokenizer, model):
    """Half a batch may hold most of its tokens."""
    some = sentences(8)
    batch = split(some.tokens, some.tags, tokenizer)
    task = TaggingTask(NAMES, {}, tokenizer)
    logits, total = model(inputs_of(batch)).numpy(), 0.0
    for rows in (slice(2), slice(2, None)):
        part = {name: array[rows] for name, array in batch.items()}

        def sum_of_weights(weights, part=part):
            # A step knows the sums of entries of the batch only.
            assert weights is part["label_weights"]
            return batch["label_weights"].sum()

        with dividing_by(len(logits), sum_of_weights):
            total += task.loss(logits[rows], part)
    np.testing.assert_allclose(total, task.loss(logits, batch), rtol=1e-5)


def test_entities_stand_where_they_say(tokenizer, monkeypatch):
    task = TaggingTask(NAMES, {}, tokenizer)
    text = "A  b,c\u200b d. "
    tags = ["B-X", "I-X", "O", "B-X", "B-X", "O"]
    probs = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    monkeypatch.setattr(
        task, "tags", lambda outputs, texts: ([tags, []], [probs, []])
    )
    assert task.answers(None, [text, " "]) == [
        [
            ("X", "A  b", 0, 4, 0.8),
            ("X", "c\u200b", 5, 7, 0.6),
            ("X", "d", 8, 9, 0.5),
        ],
        [],
    ]
    monkeypatch.undo()
    arrays = task.encode([text], 24)
    assert arrays["input_mask"].sum() == 8
    assert task.encode(["", " "], 24)["input_ids"].shape == (0, 24)


def one_hot(task, split):
    """Outputs that are right, or all O where tags are unknown."""
    arrays = task.splits[split]
    zeros = np.zeros_like(arrays["input_ids"])
    return np.eye(3)[arrays.get("labels", zeros)]


def test_predictions_are_written_and_scored(tokenizer, tmp_path, capsys):
    some = {"train": sentences(20), "dev": sentences(12, 1)}
    tokens = sentences(6, 2).tokens
    some["predict"] = Sentences("new", tokens, None, lines_of(tokens))
    task = TaggingTask(NAMES, some, tokenizer, 24, "iob2")
    assert task.labelled("dev") == ["dev"] and not task.labelled("predict")
    names = ("precision", "recall", "f1", "accuracy")
    scores = task.metrics(one_hot(task, "dev"), "dev")
    assert scores == dict.fromkeys(names, 1.0)
    assert task.score({f"dev_{name}": scores[name] for name in scores}) == 1.0
    for split in ("dev", "predict"):
        task.write(one_hot(task, split), split, tmp_path)
    read = read_sentences(tmp_path / "dev_predictions.conll", tag_column=2)
    assert (read.tokens, read.tags) == (some["dev"].tokens, some["dev"].tags)
    read = read_sentences(tmp_path / "dev_predictions.conll")
    assert read.tags == some["dev"].tags
    read = read_sentences(tmp_path / "predictions.conll")
    assert read.tokens == tokens
    assert {tag for tags in read.tags for tag in tags} == {"O"}
    shown = capsys.readouterr().out
    assert "dev X: precision 100.00  recall 100.00  f1 100.00" in shown
    assert "dev, each token's usual tag: precision " in shown
    notes = task.notes()
    assert notes["Tags"] == "O, B-X, I-X" and notes["Scheme"] == "iob2"
    assert notes["Sentences, dev"] == "12"


def test_tags_that_mark_no_entities_are_scored_by_accuracy(tokenizer):
    dev = Sentences("x", [["a", "b"]], [["NN", "VB"]], [[1, 2]])
    task = TaggingTask(("NN", "VB"), {"dev": dev}, tokenizer, 8, "none")
    metrics = task.metrics(np.eye(2)[np.zeros((1, 8), int)], "dev")
    assert metrics == {"accuracy": 0.5}
    assert task.score({"dev_accuracy": 0.5}) == 0.5


def test_windows_of_another_length(tokenizer):
    task = TaggingTask(NAMES, {"dev": sentences(4)}, tokenizer, 24)
    shorter = task.of_length(12)
    assert shorter.max_seq_length == 12
    arrays = shorter.splits["dev"]
    assert arrays["input_ids"].shape[1] == 12
    weights = task.splits["dev"]["label_weights"]
    assert arrays["label_weights"].sum() == weights.sum()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model):
    """A pre-trained model's folder and a tagger's."""
    folder = tmp_path_factory.mktemp("folders")
    encoder = mb.MobileBertEncoder(tiny.student_config())
    tiny.write_folder(folder / "encoder", encoder)
    tiny.write_folder(folder / "tagger", model)
    return folder


def read(folder, tmp_path, tokenizer, actions=Actions(), **contents):
    files, settings = {}, {"max_seq_length": 24}
    for name, content in contents.items():
        if isinstance(content, int):
            settings[name] = content
            continue
        files[f"{name}_file"] = str(tmp_path / f"{name}.conll")
        (tmp_path / f"{name}.conll").write_text(content)
    options = TaggingOptions(**files, **settings)
    return TaggingTask.read(options, tokenizer, folder, actions)


def test_a_task_is_read(folders, tmp_path, tokenizer, capsys):
    task = read(
        folders / "encoder",
        tmp_path,
        tokenizer,
        # Without evaluation the test file is not even opened.
        Actions(evaluate=False),
        train=TRAIN,
        dev="the O\ncat B-X\n",
        test="the\n",
        predict="mat\n\n" + "xy\n" * 30,
    )
    assert task.label_names == NAMES and task.scheme == "iob2"
    assert list(task.splits) == ["train", "dev", "predict"]
    shown = capsys.readouterr().out
    assert "predict: 2 sentences, 31 tokens, 6 windows (1" in shown
    assert "; read as columns, one token a line\n" in shown


def test_fewer_sentences_have_the_tags_of_all(folders, tmp_path, tokenizer):
    task = read(
        folders / "encoder",
        tmp_path,
        tokenizer,
        train="the O\n\ncat B-X\nsat I-X\n",
        max_train_examples=1,
    )
    assert task.label_names == NAMES and task.num_train_examples == 1
    assert task.sentences["train"].tokens == [["the"]]


def test_built_in_sentences_come_without_files(folders, tokenizer, monkeypatch):
    rows = ([["the"], ["cat", "sat"]], [["O"], ["B-X", "I-X"]])
    built_in = dict.fromkeys(("train", "dev", "test"), rows)
    monkeypatch.setattr(tagging, "code_task", lambda: built_in)
    task = read(folders / "tagger", None, tokenizer, Actions(train=False))
    assert list(task.sentences) == ["dev", "test"]
    assert task.sentences["dev"].lines == [[1], [3, 4]]


ALL, NO_TRAINING = Actions(), Actions(train=False)
BAD = [
    (
        "encoder",
        ALL,
        {"train": TRAIN, "dev": "a O\nb B-Y\n"},
        "2: .*, found 'B-Y'",
    ),
    (
        "encoder",
        ALL,
        {"train": TRAIN, "dev": "a O\nb I-X\n"},
        "2: .* B-X after O",
    ),
    (
        "encoder",
        ALL,
        {"train": "a O\n"},
        "at least two different tags, found O",
    ),
    (
        "encoder",
        ALL,
        {"dev": "a O\nb B-X\n"},
        "--train_file: expected a file, or",
    ),
    (
        "encoder",
        ALL,
        {"train": TRAIN, "max_seq_length": 25},
        "at most 24, found 2",
    ),
    (
        "encoder",
        NO_TRAINING,
        {"dev": "a O\n"},
        "encoder: expected a tagger, found",
    ),
    # Without training, the tagger's tags are all there is.
    (
        "tagger",
        NO_TRAINING,
        {"dev": "a B-Y\n"},
        "dev.conll, line 1: .*found 'B-Y'",
    ),
]


@pytest.mark.parametrize("kind, actions, contents, message", BAD)
def test_refusals(
    folders, tmp_path, tokenizer, kind, actions, contents, message
):
    with pytest.raises(InputError, match=message):
        read(folders / kind, tmp_path, tokenizer, actions, **contents)


def test_the_head_is_kept_or_new(folders, tmp_path, tokenizer, model):
    tagger = folders / "tagger"
    kernel = model.head.dense.kernel.numpy()
    # A tagger that is trained further on fewer tags keeps its own.
    task = read(tagger, tmp_path, tokenizer, train="the O\ncat B-X\n")
    assert task.label_names == NAMES
    again = task.build(tagger)
    np.testing.assert_array_equal(again.head.dense.kernel.numpy(), kernel)
    task = read(tagger, tmp_path, tokenizer, train="the O\ncat B-Y\n")
    assert task.label_names == ("O", "B-Y")
    assert task.build(tagger).head.dense.kernel.shape[1] == 2
    assert TaggingTask.open(tagger, tokenizer).label_names == NAMES
    with pytest.raises(InputError, match="expected a tagger, found another"):
        TaggingTask.open(folders / "encoder", tokenizer)


def test_phones_open_no_taggers(tokenizer):
    task = TaggingTask(NAMES, {}, tokenizer)
    assert task.file_options(None) == {}
    with pytest.raises(InputError, match="--metadata: expected a classifier"):
        task.file_options(tokenizer)
