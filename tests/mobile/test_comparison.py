"""Files beside the float model and the floor, and what a loss is answered by.

The task's outputs stand for those of models and files.
"""

import numpy as np
import pytest

from mobilebert_tf.config import INPUT_NAMES
from mobilebert_tf.mobile.comparison import comparison, warnings
from mobilebert_tf.tasks.classification import ClassificationTask
from tests import tiny

# 200 examples, 120 of the largest class.
LABELS = np.repeat([0, 1, 2], [30, 120, 50])


@pytest.fixture
def task():
    arrays = dict.fromkeys(INPUT_NAMES, np.zeros((200, 8), int))
    arrays["labels"] = LABELS
    train = {name: array[:40] for name, array in arrays.items()}
    splits = {"train": train, "dev": arrays, "test": arrays}
    return ClassificationTask(tiny.LABELS, splits)


def scores(task, num_wrong):
    """The metrics of a model that is wrong on so many examples."""
    decisions = LABELS.copy()
    decisions[:num_wrong] = (decisions[:num_wrong] + 1) % 3
    logits = np.eye(3)[decisions]
    return task.evaluate(lambda _: logits, "dev") | task.evaluate(
        lambda _: logits, "test"
    )


def test_a_table_has_floor_model_and_files(task):
    size = {"megabytes": 1.5, "latency_ms": 2.25}
    files = {
        "float32": scores(task, 1) | size | {"fp16_error": 0.01},
        "int8": scores(task, 3) | size,
    }
    lines = [line.split() for line in comparison(files, scores(task, 1), task)]
    assert lines[0][:2] == ["dev_accuracy", "test_accuracy"]
    assert lines[2:] == [
        ["floor", "0.6000", "0.6000", "-", "-", "-"],
        ["float", "model", "0.9950", "0.9950", "-", "-", "-"],
        ["float32.tflite", "0.9950", "0.9950", "0.0100", "1.50", "2.25"],
        ["int8.tflite", "0.9850", "0.9850", "-", "1.50", "2.25"],
    ]


LOST = [
    ("int8", 2, None),
    ("int8", 3, "loses 1.0 points of accuracy on the 200 dev examples"),
    ("int8", 9, "Try --export=int8_qat, more training examples to calibrate"),
    ("int8", 9, "with (40 of up to 512), --export=dynamic"),
    ("int8_qat", 9, "Try a larger --num_qat_steps, more training"),
    ("dynamic", 9, "Try --export=int8_qat"),
    ("float16", 9, "Try a larger --export_seq_length"),
]


@pytest.mark.parametrize(("kind", "num_wrong", "expected"), LOST)
def test_a_loss_of_more_than_half_a_point_is_named(
    kind, num_wrong, expected, task
):
    """One example is half a point."""
    files = {kind: scores(task, num_wrong)}
    found = list(warnings(files, scores(task, 1), task))
    assert len(found) == (expected is not None)
    for line in found:
        assert line.startswith(f"warning: {kind}.tflite ") and expected in line
    assert not list(warnings(files, {}, task))


def test_percent_and_shares_are_the_same_points(task):
    """Metrics of questions are in percent already."""
    files, model = {"int8": scores(task, 9)}, scores(task, 1)
    (line,) = warnings(files, model, task)
    assert "loses 4.0 points" in line
    task.points = 1.0
    assert not list(warnings(files, model, task))


def test_without_dev_examples_there_is_no_comparison(task):
    files, model = {"int8": scores(task, 9)}, scores(task, 1)
    del task.splits["dev"]
    assert not list(warnings(files, model, task))
