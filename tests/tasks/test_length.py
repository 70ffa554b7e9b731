"""Lengths of examples: from the data, remembered, asked for, and bounded."""

import json

import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.classification import ClassificationTask
from mobilebert_tf.tasks.classification_examples import ClassificationOptions
from mobilebert_tf.tasks.length import saved_length
from mobilebert_tf.tasks.tagging import TaggingOptions, TaggingTask
from mobilebert_tf.tasks.task import Actions
from tests import tiny

LABELS = ("no", "yes")
TRAIN, USE = Actions(), Actions(train=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 120 positions."""
    config = tiny.student_config(
        num_hidden_layers=1, max_position_embeddings=120
    )
    folder = tmp_path_factory.mktemp("model")
    return tiny.write_folder(folder, tiny.classifier(LABELS, config))


def rows(counts):
    """A table with a text of each number of words, each word one piece."""
    lines = ["text\tother\tlabel"]
    for index, count in enumerate(counts):
        lines.append(f"{'cat ' * count}\tthe mat\t{LABELS[index % 2]}")
    return "\n".join(lines) + "\n"


def sentences(counts):
    return "\n".join("cat O\n" * (count - 1) + "sat B-X\n" for count in counts)


def read(folder, path, actions=TRAIN, split="train", **options):
    """Reads a table, or sentences, as a split."""
    is_table = path.suffix == ".tsv"
    task = ClassificationTask if is_table else TaggingTask
    kind = ClassificationOptions if is_table else TaggingOptions
    options = kind(**{f"{split}_file": str(path)}, **options)
    return task.read(options, tiny.tokenizer(), folder, actions)


# Numbers of words, and the length that 95 % of the examples need with two
# special pieces.
COUNTS = [
    # 95 of 100 have up to 98 pieces.
    (range(2, 102), 104, "0.0%"),
    ([4] * 95 + [60] * 5, 8, "5.0%"),
    ([4] * 94 + [60] * 6, 64, "0.0%"),
    ([6] * 20, 8, "0.0%"),
    ([7] * 20, 16, "0.0%"),
    ([500] * 20, 120, "100.0%"),
]


@pytest.mark.parametrize(("counts", "length", "share"), COUNTS)
def test_the_length_is_what_training_texts_need(
    counts, length, share, folder, tmp_path, capsys
):
    path = tmp_path / "train.tsv"
    path.write_text(rows(counts))
    assert read(folder, path).max_seq_length == length
    assert (
        f"max_seq_length: {length}, from the training examples; {share} of "
        "them are longer and cut" in capsys.readouterr().out
    )
    assert read(folder, path, max_seq_length=16).max_seq_length == 16
    assert "max_seq_length" not in capsys.readouterr().out


def test_pairs_need_both_texts_and_three_special_pieces(folder, tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text(rows([3] * 20))
    pair = {"text_b_column": "other"}
    assert read(folder, path, **pair).max_seq_length == 8
    path.write_text(rows([4] * 20))
    assert read(folder, path, **pair).max_seq_length == 16


def test_sentences_are_measured_as_texts_are(folder, tmp_path, capsys):
    path = tmp_path / "train.conll"
    path.write_text(sentences([4] * 94 + [60] * 6))
    assert read(folder, path).max_seq_length == 64
    path.write_text(sentences([4] * 95 + [60] * 5))
    assert read(folder, path).max_seq_length == 8
    printed = capsys.readouterr().out
    assert "max_seq_length: 8, from" in printed
    assert "5.0% of them are longer and divided" in printed


def test_a_trained_folder_remembers_its_length(folder, tmp_path):
    path, model = tmp_path / "train.tsv", tmp_path / "model"
    path.write_text(rows([30] * 20))
    tiny.write_folder(model, tiny.classifier(LABELS, num_hidden_layers=1))
    # 24 positions: all that the model has.
    assert saved_length(model) == 24
    assert saved_length(folder) == 120
    task = read(folder, path, max_seq_length=16)
    task.save(model)
    assert saved_length(model) == 16
    assert read(model, path, USE, "dev").max_seq_length == 16
    # Trained on, it is as long as the new texts.
    assert read(model, path).max_seq_length == 24


@pytest.mark.parametrize("length", [25, 7, True, "16", 16.0, [16]])
def test_a_length_that_the_model_cannot_have(length, tmp_path):
    tiny.write_folder(tmp_path, tiny.classifier(LABELS, num_hidden_layers=1))
    path = tmp_path / "config.json"
    values = json.loads(path.read_text()) | {"max_seq_length": length}
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="max_seq_length from 8 to 24, found"):
        saved_length(tmp_path)
