"""The table of GLUE from the records that runs leave."""

import json

import pytest

from mobilebert_tf.commands.glue_average import GLUE_AVERAGE, table
from mobilebert_tf.errors import InputError

# BERT-base as the leaderboard lists it; its average there is 78.3.
RESULTS = {
    "cola": {"dev_matthews": 0.521},
    "sst2": {"dev_accuracy": 0.935},
    "mrpc": {"dev_accuracy": 0.848, "dev_f1": 0.889},
    "stsb": {"dev_pearson": 0.871, "dev_spearman": 0.858},
    "qqp": {"dev_accuracy": 0.892, "dev_f1": 0.712},
    "mnli": {"dev_matched_accuracy": 0.846, "dev_mismatched_accuracy": 0.834},
    "qnli": {"dev_accuracy": 0.905},
    "rte": {"dev_accuracy": 0.664},
    "wnli": {"dev_accuracy": 0.651},
}


@pytest.fixture
def folder(tmp_path):
    """Writes the folder of a run of a task."""

    def write(task, phase="results", results=None):
        path = tmp_path / str(task)
        path.mkdir()
        (path / "run.json").write_text(json.dumps({"task": task}))
        line = {"phase": phase, "step": 0, "global_step": 9, "int8_dev_f1": 0}
        line |= RESULTS.get(task, {}) if results is None else results
        (path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        return str(path)

    return write


def test_nine_runs_have_an_average(folder, capsys):
    GLUE_AVERAGE.run([f"--runs={','.join(map(folder, RESULTS))}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "average   78.3"
    assert lines[5] == (
        "mnli      84.0  matched_accuracy 84.6  mismatched_accuracy 83.4"
    )


def test_fewer_have_none():
    lines = table({"rte": RESULTS["rte"], "cola": RESULTS["cola"]})
    assert lines[0].startswith("cola") and lines[1].startswith("rte")
    assert lines[2] == "no average: without sst2, mrpc, stsb, qqp, mnli, " + (
        "qnli, wnli"
    )


@pytest.mark.parametrize(
    ("task", "phase", "results", "message"),
    [
        ("library", "results", None, "a task of GLUE, found 'library'"),
        ("ax", "results", None, "a task of GLUE, found 'ax'"),
        ("rte", "fine_tuning", None, "the results of a finished run"),
        ("rte", "results", {}, "dev results"),
    ],
)
def test_other_and_unfinished_runs_are_refused(
    folder, task, phase, results, message
):
    with pytest.raises(InputError, match=message):
        GLUE_AVERAGE.run([f"--runs={folder(task, phase, results)}"])
