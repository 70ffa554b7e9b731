"""The demo's table and page say what its folders hold."""

import base64
import contextlib
import io
import json
import re
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mobilebert_tf.commands import demo_results as results
from mobilebert_tf.commands import report
from mobilebert_tf.data import builtin
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile import runtime
from tests import tiny

# Model folder -> masked LM, dev and test accuracy.
SCORES = {
    "teacher": (0.30, 0.70, 0.72),
    "student": (0.25, 0.65, 0.66),
    "student_alone": (0.20, 0.61, 0.60),
}
TEXTS = [
    "the cat sat. not <b>good.",
    "the mat.",
    "the cat sat on the mat . " * 20,
]
SPLITS = {
    "dev": (TEXTS[:2], ["no", "no"]),
    "test": (TEXTS, ["no", "yes", "maybe"]),
}


LINE = '{"phase": "train", "global_step": 4}\n'


def transfer_lines():
    terms = ("normalized_feature_map_loss", "attention_transfer_loss")
    return [
        {"phase": f"transfer_block_0{block}", "global_step": 2 * block + step}
        | {f"{term}_block_0{block}": 1.0 / step for term in terms}
        for block in range(2)
        for step in (1, 2)
    ]


def write_run(folder, settings, lines, end):
    """Writes what a finished command leaves besides its weights."""
    lines = [*lines, {"phase": "results", "global_step": 6} | end]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )
    (folder / "run.json").write_text(json.dumps(settings))
    (folder / "README.md").write_text(
        f"# A model\n\n    python run.py --output_dir='d & {folder}'\n"
    )


def write_runs(folder, shift=0.0):
    """Writes the six records; test accuracies are `shift` higher."""
    losses = [
        {"phase": "train", "global_step": step, "masked_lm_loss": 9.0 - step}
        for step in (5, 6)
    ]
    settings = {
        "max_seq_length": 16,
        "num_transfer_steps": 4,
        "num_train_steps": 1002,
    }
    for name, (masked_lm, dev, test) in SCORES.items():
        end = {"masked_lm_accuracy": masked_lm, "masked_lm_loss": 4.0}
        write_run(folder / name, settings, transfer_lines() + losses, end)
        end = {"dev_accuracy": dev, "test_accuracy": test + shift}
        for kind, loss in (("float32", 0), ("dynamic", 1), ("int8_qat", 4)):
            end |= {
                f"{kind}_dev_accuracy": dev - 0.001 * loss,
                f"{kind}_test_accuracy": test + shift - 0.002 * loss,
                f"{kind}_megabytes": 0.5,
                f"{kind}_latency_ms": 1.25,
            }
        write_run(folder / f"{name}_classifier", {}, [], end)


class Int8File:
    """Stands in for a .tflite file: "yes" to texts of more than 8 tokens."""

    max_seq_length = tiny.MAX_LENGTH

    def __init__(self, path):
        assert path.name == "int8_qat.tflite"

    def predict(self, arrays):
        is_long = arrays["input_mask"].sum(axis=1, keepdims=True) > 8
        return np.log(np.where(is_long, [[1, 1, 2]], [[2, 1, 1]]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A demo of two seeds, whose models differ; one model makes them all."""
    folder = tmp_path_factory.mktemp("demo")
    model, classifier = tiny.pretraining_model(), tiny.classifier()
    for seed, name in enumerate(SCORES):
        tiny.randomise(model, np.random.default_rng(seed))
        tiny.write_folder(folder / name, model)
        tiny.write_folder(folder / f"{name}_classifier", classifier)
    write_runs(folder)
    shutil.copytree(folder, folder / "seed_2")
    write_runs(folder / "seed_2", shift=0.02)
    return folder


@pytest.fixture(scope="module")
def reported(folder):
    """The demo as the command read it, and what it printed."""
    demos, read = [], report.Demo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "TFLiteModel", Int8File)
        patch.setattr(builtin, "library_task", lambda: SPLITS)
        patch.setattr(
            report, "Demo", lambda *a: demos.append(read(*a)) or demos[0]
        )
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            report.COMMAND.run([f"--demo_dir={folder}", "--seeds=2"])
        yield demos[0], printed.getvalue()


@pytest.fixture(scope="module")
def demo(reported):
    return reported[0]


@pytest.fixture(scope="module")
def content(reported, folder):
    return (folder / "report.html").read_text()


def test_the_page_stands_alone_and_says_what_the_demo_found(content):
    assert not re.search(r"<(link|script|iframe)|href|url\(|@import", content)
    # Accuracies, two of losses, three of attention.
    sources = re.findall(r'<img alt="[^"]+" src="([^"]*)"', content)
    assert len(sources) == content.count("<img ") == 6
    for source in sources:
        head, data = source.split(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG\r\n\x1a\n")
    for tag in ("table", "tr", "td", "figure", "blockquote", "ul"):
        opened = len(re.findall(rf"<{tag}[ >]", content))
        assert opened == content.count(f"</{tag}>") > 0
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", content))
    for words in (
        *("and 3 held-out", "beats the same student", "1,002 steps"),
        *("--output_dir=&#x27;d &amp; ", "Results, mean of 2 seeds"),
        *("student, distilled 66.0 68.0 67.0", "not &lt;b&gt;good"),
    ):
        assert words in text
    assert "$" not in text


def test_the_table_names_its_columns_on_phones(content):
    row = re.search("<tr>.*student, distilled.*</tr>", content)[0]
    cells = dict(re.findall(r'<td data-label="([^"]*)">([^<]*)</td>', row))
    model = tiny.classifier()
    assert cells["parameters"] == f"{model.count_params():,}"
    assert cells["test %"] == "67.0"
    for rule in (
        *("max-width: 42rem", "attr(data-label)"),
        *("color-scheme: dark", "filter: invert"),
    ):
        assert rule in content


def test_short_texts_and_their_answers(demo):
    assert demo.answers() == [
        (TEXTS[0], "no", "yes", pytest.approx(0.5)),
        (TEXTS[1], "yes", "no", pytest.approx(0.5)),
    ]


def test_attention_is_compared_on_a_sentence_of_legible_length(demo):
    assert demo.sentence == "the cat sat on the mat ."
    words = "[CLS] the cat sat o ##n the mat . [SEP]"
    assert demo.tokens == words.split()
    for maps in demo.maps.values():
        assert maps.shape == (2, 4, 10, 10)
        np.testing.assert_allclose(maps.sum(axis=-1), 1.0, rtol=1e-5)
    assert demo.elsewhere["teacher"] == 0.0
    assert 0.0 < demo.elsewhere["student, distilled"] < 1.0


def test_bars_and_circles_stand_where_the_numbers_are(demo):
    figure = Figure()
    demo.draw_accuracies(figure)
    bars = [bar.get_width() for bar in figure.axes[0].patches]
    assert bars == pytest.approx([73, 67, 61, 67, 66.8, 66.2])
    figure = Figure(layout="constrained")
    demo.draw_losses(figure)
    (axes,) = figure.axes
    ends = [line.get_xydata().tolist() for line in axes.lines[-3:]]
    assert ends == [[[6, 4.0]]] * 3
    assert axes.lines[0].get_xydata().tolist() == [[5, 4], [6, 3]]


def test_attention_difference_by_hand():
    same = np.zeros((1, 1, 1, 2, 2))
    same[..., 0] = 1.0
    other = same.copy()
    other[..., 0, :] = [0.25, 0.75]
    # The second query agrees; where it is padding only the first counts.
    for mask, difference in (([1, 1], 0.375), ([1, 0], 0.75)):
        found = report.attention_difference(same, other, np.array([mask]))
        assert found == difference


def test_two_seeds_are_reported(reported, folder):
    printed = " ".join(reported[1].split())
    assert "student, distilled 66.0 68.0 67.0 " in printed
    assert "in every seed: test +6.0 (+6.0, +6.0)" in printed
    results = json.loads((folder / "results.json").read_text())
    assert results["comparison"]["distilled_wins"] is True
    assert results["held_out"] == {
        "num_dev": 2,
        "num_test": 3,
        "num_classes": 3,
        "largest_class": pytest.approx(1 / 3),
    }
    with Image.open(folder / "demo.png") as picture:
        assert picture.width > 1000


@pytest.fixture
def own_folder(folder, tmp_path):
    """A copy, to damage."""
    return shutil.copytree(folder, tmp_path / "demo")


def row(name, accuracy, **values):
    keys = ("masked_lm_accuracy", "dev_accuracy", "test_accuracy")
    others = ("parameters", "megabytes", "latency_ms")
    times = ("pretraining_minutes", "fine_tuning_minutes")
    blank = dict.fromkeys((*others, *times)) | dict.fromkeys(keys, accuracy)
    return blank | {"name": name} | values


def seed(distilled, alone, int8):
    return [
        row(results.TEACHER, 0.9, parameters=1000),
        row(results.DISTILLED, distilled, parameters=500),
        row(results.ALONE, alone, parameters=500),
        row(results.INT8, int8, latency_ms=1.0),
    ]


def test_rows_are_what_the_folders_hold(own_folder):
    folder = own_folder
    (folder / "timings.json").write_text(
        '{"student": {"seconds": 90.0, "finished": true},'
        ' "teacher": {"seconds": 90.0, "finished": false}}'
    )
    teacher, distilled, alone, *files = results.read_rows(folder)
    weights = folder / "student_classifier" / "model.safetensors"
    assert teacher["pretraining_minutes"] is None
    assert distilled == {
        "name": "student, distilled",
        "dev_accuracy": 0.65,
        "test_accuracy": 0.66,
        "megabytes": weights.stat().st_size / 1e6,
        "parameters": tiny.classifier().count_params(),
        "masked_lm_accuracy": 0.25,
        "latency_ms": None,
        "pretraining_minutes": 1.5,
        "fine_tuning_minutes": None,
    }
    assert alone["masked_lm_accuracy"] == 0.20
    assert files[-1] == row(
        "distilled, int8_qat .tflite",
        None,
        dev_accuracy=pytest.approx(0.646),
        test_accuracy=pytest.approx(0.652),
        megabytes=0.5,
        latency_ms=1.25,
    )


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("timings.json", '{"teacher": 3}', "timings.json, teacher: expected s"),
        ("teacher/metrics.jsonl", None, "expected a file, found nothing"),
        ("teacher/metrics.jsonl", "", "results last, found nothing"),
        ("student_classifier/metrics.jsonl", LINE, "a finished run's results"),
        (
            "teacher/metrics.jsonl",
            LINE.replace("train", "results"),
            "expected the result masked_lm_accuracy",
        ),
        ("student_classifier/model.safetensors", "{}", "a weights file"),
        ("student/README.md", "# Nothing\n", "expected the command that made"),
        ("student/README.md", None, "README.md: expected"),
    ],
)
def test_what_is_missing_is_named(own_folder, name, content, message):
    path = own_folder / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        results.read_rows(own_folder)
        results.read_commands(own_folder)


def test_seeds_are_compared_one_by_one():
    seeds = [seed(0.80, 0.75, 0.795), seed(0.70, 0.71, 0.703)]
    comparison = results.compare(seeds)
    assert comparison["test_gains"] == pytest.approx([5.0, -1.0])
    assert comparison["int8_dev_losses"] == pytest.approx([0.5, -0.3])
    assert comparison["largest_int8_loss"] == pytest.approx(0.5)
    first, second = results.verdicts(comparison)
    assert "does NOT beat" in first and "+2.0 (+5.0, -1.0)" in first
    assert "at most 0.50 points" in second and "2 seeds" in second


@pytest.mark.parametrize("alone, wins", [(0.75, True), (0.8, False)])
def test_a_tie_is_not_a_win(alone, wins):
    comparison = results.compare([seed(0.8, alone, 0.9)])
    assert comparison["distilled_wins"] is wins
    first, second = results.verdicts(comparison)
    assert ("does NOT beat" in first) is not wins
    assert "at most 0.00 points" in second


def test_tables_hold_means_and_seeds():
    seeds = [seed(0.80, 0.75, 0.79), seed(0.70, 0.71, 0.70)]
    seeds[0][1] |= {"pretraining_minutes": 4.04, "megabytes": 3.1}
    seeds[1][1] |= {"pretraining_minutes": 4.0, "megabytes": 3.2}
    mean, by_seed = results.tables(seeds)
    assert mean[2] == [
        *("student, distilled", "500", "75.0", "75.0", "75.0", "3.15", ""),
        *("4.0", ""),
    ]
    assert by_seed[0] == ["test accuracy, %", "seed 1", "seed 2", "mean"]
    assert by_seed[2] == ["student, distilled", "80.0", "70.0", "75.0"]
    text = results.format_table([["model", "size\nMB"], ["a", "10.00"]])
    assert text.splitlines() == [
        "        size",
        "model     MB",
        "------------",
        "a      10.00",
    ]
