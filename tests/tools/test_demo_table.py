"""The table: means, verdicts and plain text."""

import json

import pytest

from mobilebert_tf.tools.demo_results import HeldOut, Row
from mobilebert_tf.tools.demo_table import (
    HEADER,
    Comparison,
    format_table,
    mean_rows,
    seed_cells,
    table_cells,
    write_results,
)


def rows_of(distilled, alone, int8):
    return [
        Row("teacher", 0.9, 0.9, 3.0, 1000, 0.5),
        Row("student, distilled", distilled, distilled, 1.0, 500, 0.4),
        Row("student, without a teacher", alone, alone, 1.0, 500, 0.3),
        Row("distilled, int8_qat .tflite", int8, int8, 0.3, latency_ms=1.0),
    ]


def test_seeds_are_compared_one_by_one():
    seeds = [rows_of(0.80, 0.75, 0.795), rows_of(0.70, 0.71, 0.703)]
    comparison = Comparison.of(seeds)
    assert comparison.test_gains == pytest.approx((5.0, -1.0))
    assert comparison.masked_lm_gains == pytest.approx((10.0, 10.0))
    assert not comparison.distilled_wins
    assert comparison.largest_int8_loss == pytest.approx(0.5)
    first, second = comparison.lines()
    assert "does NOT beat" in first and "+2.0 (+5.0, -1.0)" in first
    assert "at most 0.50 points" in second and "2 seeds" in second
    assert Comparison.of(seeds[:1]).distilled_wins
    assert "beats" in Comparison.of(seeds[:1]).lines()[0]


def test_a_tie_is_no_win():
    assert not Comparison.of([rows_of(0.8, 0.8, 0.8)]).distilled_wins


def test_means_of_seeds():
    seeds = [rows_of(0.80, 0.75, 0.79), rows_of(0.70, 0.71, 0.70)]
    mean = mean_rows(seeds)[1]
    assert mean.test_accuracy == pytest.approx(0.75)
    assert mean.parameters == 500 and mean.latency_ms is None
    header, cells = seed_cells(seeds)
    assert header == ["test accuracy, %", "seed 1", "seed 2", "mean"]
    assert cells[1] == ["student, distilled", "80.0", "70.0", "75.0"]


def test_the_table_in_plain_text():
    row = Row("teacher", 0.5, 0.625, 3.14159, 1234567, 0.3333, None, 4.04, 1.0)
    cells = table_cells([row, Row("int8", 0.5, 0.61, 0.3, latency_ms=0.654)])
    assert cells[0] == [
        "teacher", "1,234,567", "33.3", "50.0", "62.5", "3.14", "", "4.0 + 1.0",
    ]  # fmt: skip
    lines = format_table(HEADER, cells).splitlines()
    assert (
        lines[0].split() == "masked LM dev test size latency training".split()
    )
    assert set(lines[2]) == {"-"}
    assert lines[3].endswith("4.0 + 1.0")
    # The numbers of a column end below each other.
    assert lines[4].index("0.65") + 4 == lines[0].index("latency") + 7
    assert max(map(len, lines)) == len(lines[2])


def test_results_as_json(tmp_path):
    seeds = [rows_of(0.80, 0.75, 0.795)]
    path = write_results(tmp_path, seeds, HeldOut(10, 20, 2, 0.6))
    content = json.loads(path.read_text())
    assert content["held_out"]["num_test"] == 20
    assert content["seeds"][0][1]["test_accuracy"] == 0.80
    assert content["comparison"]["distilled_wins"] is True
