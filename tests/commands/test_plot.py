"""A run's record becomes curves, and those a figure."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from mobilebert_tf.commands import plot
from mobilebert_tf.errors import InputError

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


def drawn(runs):
    figure = Figure(layout="constrained")
    plot.draw_curves(figure, runs, {"loss": "loss (nats)"})
    return figure


def names(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_by_metric_and_block(run):
    assert plot.read_run(run) == LINES
    assert plot.curves_of(LINES) == {
        "loss": {None: ([5, 10], [3.0, 2.0])},
        "attention_transfer_loss": {0: ([5], [0.5]), 1: ([10], [0.25])},
    }
    assert list(plot.curves_of(LINES, "lo.*")) == ["loss"]


def test_a_panel_per_metric_and_a_line_per_block():
    figure = drawn({"run": plot.curves_of(LINES)})
    loss, attention = figure.axes
    assert loss.lines[0].get_xydata().tolist() == [[5, 3], [10, 2]]
    assert loss.get_ylabel() == "loss (nats)"
    assert loss.get_xlabel() == "optimiser step"
    assert attention.get_ylabel() == "attention_transfer_loss"
    first, second = attention.lines
    assert first.get_color() != second.get_color()
    assert names(figure) == ["run", "block 1", "block 2"]


def test_several_runs_share_panels_and_a_legend():
    curves = plot.curves_of(LINES)
    figure = drawn({"one": curves, "two": curves})
    assert [len(axes.lines) for axes in figure.axes] == [2, 4]
    assert names(figure) == ["one", "two"]


@pytest.mark.parametrize(
    "values, scale", [((1.0, 0.05), "log"), ((1, 0.2), "linear")]
)
def test_a_loss_over_a_factor_of_ten_has_a_logarithmic_axis(values, scale):
    figure = drawn({"run": {"loss": {None: ([1, 2], values)}}})
    assert figure.axes[0].get_yscale() == scale


def test_attention_maps_are_images_by_row_and_column(rng):
    maps = rng.random((2, 3, 4, 4))
    figure = Figure(layout="constrained")
    plot.draw_attention(figure, maps, "abcd", "xy", "head", highest=2.0)
    *panels, bar = figure.axes
    for index, axes in enumerate(panels):
        (image,) = axes.images
        np.testing.assert_array_equal(image.get_array(), maps[divmod(index, 3)])
        assert image.get_clim() == (0.0, 2.0)
    assert [axes.get_title() for axes in panels[1:3]] == ["head 2", "head 3"]
    assert panels[3].get_ylabel() == "y"
    assert bar.get_xlabel() == "attention probability"


@pytest.mark.parametrize("suffix", plot.FORMATS)
def test_images_are_written(run, tmp_path, suffix):
    output = tmp_path / f"curves{suffix}"
    plot.main(plot.PlotOptions((str(run),), str(output)))
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
    options = plot.PlotOptions((str(run),), str(tmp_path / name), metrics)
    with pytest.raises(InputError, match=words):
        plot.main(options)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "expected a file, found nothing"),
        (b"{\n", "line 1: expected JSON"),
        (b"\xff\n", "line 1: expected UTF-8 text"),
        (b"[]\n", "line 1: expected an object with phase, global_step"),
        (b'{"phase": "train"}\n', "line 1: expected an object with phase"),
    ],
)
def test_a_missing_or_damaged_record(tmp_path, content, words):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=words):
        plot.read_run(tmp_path)
