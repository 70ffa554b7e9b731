"""A run's record becomes curves, and those a figure."""

import json

import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.tools import plot

LINES = [
    {"phase": "transfer_block_00", "step": 5, "global_step": 5, "loss": 3.0}
    | {"attention_transfer_loss_block_00": 0.5},
    {"phase": "transfer_block_01", "step": 5, "global_step": 10, "loss": 2.0}
    | {"attention_transfer_loss_block_01": 0.25},
    {"phase": "results", "step": 0, "global_step": 10, "accuracy": 1.0},
]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in LINES)
    )
    return folder


def test_curves_by_metric_and_block(run):
    assert plot.curves_of(plot.read_run(run)) == {
        "loss": {None: ([5, 10], [3.0, 2.0])},
        "attention_transfer_loss": {0: ([5], [0.5]), 1: ([10], [0.25])},
    }
    assert list(plot.curves_of(LINES, "lo.*")) == ["loss"]


def test_a_panel_a_metric_and_a_line_a_block(run):
    figure = plot.curves_figure({"run": plot.curves_of(plot.read_run(run))})
    loss, attention = figure.axes[:2]
    assert loss.lines[0].get_xydata().tolist() == [[5, 3], [10, 2]]
    assert len(attention.lines) == 2
    assert attention.get_title().endswith("blocks 1 (dark) to 2")


def test_several_runs_share_panels_and_a_legend(run):
    curves = plot.curves_of(plot.read_run(run), "loss")
    figure = plot.curves_figure({"one": curves, "two": curves})
    assert len(figure.axes) == 1
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["one", "two"]


@pytest.mark.parametrize("suffix", plot.FORMATS)
def test_images_are_written(run, tmp_path, suffix):
    output = tmp_path / f"curves{suffix}"
    plot.draw_runs([str(run)], output, ".*")
    head = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert output.read_bytes().startswith(head)


@pytest.mark.parametrize(
    "name, metrics, words",
    [
        ("curves.jpg", ".*", "expected a name that ends in .png"),
        ("curves.png", "(", "expected a regular expression"),
        ("curves.png", "none", "expected metrics like none"),
    ],
)
def test_bad_flags(run, tmp_path, name, metrics, words):
    with pytest.raises(InputError, match=words):
        plot.draw_runs([str(run)], tmp_path / name, metrics)
    assert not (tmp_path / name).exists()


def test_no_record(tmp_path):
    with pytest.raises(InputError, match="expected a run's record"):
        plot.read_run(tmp_path)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"{\n", "expected a JSON object a line"),
        (b"\xff\n", "expected a JSON object a line"),
        (b"[]\n", "line 1: expected an object with phase and global_step"),
        (b'{"phase": "train"}\n', "line 1: expected an object with phase"),
    ],
)
def test_damaged_record(run, content, words):
    (run / "metrics.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=words):
        plot.read_run(run)
