"""Reports on a demo: table, `results.json`, `report.html` and `demo.png`.

    python -m mobilebert_tf.commands.report --demo_dir=demo

Reads the folders that the demo's commands wrote. The page needs no other file
and follows the reader's light or dark theme; `demo.png` shows the journey in
one picture. With several seeds, curves and maps are those of the first.
"""

import base64
import dataclasses
import functools
import io
import json
import os
import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure, SubFigure

from mobilebert_tf.commands import demo_results as results
from mobilebert_tf.commands import plot
from mobilebert_tf.commands.command import Command
from mobilebert_tf.commands.demo_results import (
    ALONE,
    DISTILLED,
    MODELS,
    TEACHER,
)
from mobilebert_tf.files import atomic_file, read_json_object
from mobilebert_tf.options import Options, option

_LABELS = {
    "masked_lm_loss": "masked-LM loss (nats)",
    "normalized_feature_map_loss": "feature maps, normalised\n"
    "(mean squared difference)",
    "feature_mean_loss": "feature means\n(mean squared difference)",
    "feature_variance_loss": "feature variances\n(mean absolute difference)",
    "attention_transfer_loss": "attention\n(KL divergence, nats)",
}
# In the order of Matplotlib's colours C0, C1 and C2.
_COLORS = {DISTILLED: "C0", ALONE: "C1", TEACHER: "C2"}
# Paragraphs to compare attention on, and to find an example sentence in.
_NUM_TEXTS = 128
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
# So many tokens, with [CLS] and [SEP], make a legible attention map.
_SENTENCE_TOKENS = 12
_NUM_EXAMPLES = 3
_MAX_EXAMPLE_CHARACTERS = 240


@dataclasses.dataclass(frozen=True)
class ReportOptions(Options):
    """Which demo to report on."""

    demo_dir: str = option("demo", "Folder of a finished demo.", everyday=True)
    seeds: int = option(1, "Number of its seeds.", min=1, everyday=True)


class Demo:
    """A finished demo, read from its folders, and the pictures of it.

    Args:
        folder: the demo's folder.
        num_seeds: how many seeds it has.
        splits: texts and labels of the classifiers by split; dev and test are
            used.

    Attributes:
        held_out: numbers of the paragraphs that the classifiers are compared
            on; `largest_class` is the accuracy on test of always naming it.
        sentence: an example.
        tokens: its S pieces.
        maps: by model, attention probabilities [L, N, S, S] on the example.
        elsewhere: by model, the share of its attention that the teacher puts
            elsewhere, over `_NUM_TEXTS` texts.

    Raises:
        InputError: if a step of the demo has not finished.
    """

    def __init__(self, folder: Path, num_seeds: int, splits: Mapping):
        self.folder = folder
        self.seeds = [
            results.read_rows(results.seed_folder(folder, seed))
            for seed in range(1, num_seeds + 1)
        ]
        self.texts, self.labels = splits["test"]
        counts = Counter(self.labels)
        self.held_out = {
            "num_dev": len(splits["dev"][0]),
            "num_test": len(self.labels),
            "num_classes": len(counts),
            "largest_class": max(counts.values()) / len(self.labels),
        }
        self.commands = results.read_commands(folder)
        self.settings = {
            model: read_json_object(folder / model / "run.json")
            for model in MODELS.values()
        }
        self.records = {
            name: plot.read_run(folder / MODELS[name]) for name in _COLORS
        }
        self._read_attention()

    def _read_attention(self) -> None:
        length = self.settings["student"]["max_seq_length"]
        texts = self.texts[:_NUM_TEXTS]
        encode = functools.partial(_encode, self.folder / "teacher")
        tokenizer, many = encode(texts, length)
        sentences = [
            sentence for text in texts for sentence in _SENTENCE_END.split(text)
        ]
        _, one = encode(sentences, length)
        lengths = one["input_mask"].sum(axis=1)
        chosen = int(np.argmin(np.abs(lengths - _SENTENCE_TOKENS)))
        one = {k: rows[[chosen], : lengths[chosen]] for k, rows in one.items()}
        self.sentence = sentences[chosen]
        self.tokens = [tokenizer.vocab[index] for index in one["input_ids"][0]]
        self.maps, self.elsewhere, teacher = {}, {}, None
        # The teacher is the first.
        for name, model in MODELS.items():
            (self.maps[name],) = attention_maps(self.folder / model, one)
            probs = attention_maps(self.folder / model, many)
            teacher = probs if teacher is None else teacher
            self.elsewhere[name] = attention_difference(
                probs, teacher, many["input_mask"]
            )

    def answers(self) -> list[tuple[str, str, str, float]]:
        """Classifies the first short text of some libraries with the int8 file.

        Returns:
            Text, library, the file's answer and its probability.
        """
        from scipy.special import softmax

        from mobilebert_tf.mobile.runtime import TFLiteModel
        from mobilebert_tf.tasks.task import saved_label_names

        texts = {}
        for text, library in zip(self.texts, self.labels, strict=True):
            if len(text) <= _MAX_EXAMPLE_CHARACTERS:
                texts.setdefault(library, text)
        texts = dict(list(texts.items())[:_NUM_EXAMPLES])
        folder = self.folder / "student_classifier"
        names = saved_label_names(folder)
        model = TFLiteModel(folder / "int8_qat.tflite")
        _, arrays = _encode(folder, [*texts.values()], model.max_seq_length)
        probs = softmax(model.predict(arrays), axis=-1)
        return [
            (text, library, names[row.argmax()], float(row.max()))
            for (library, text), row in zip(texts.items(), probs, strict=True)
        ]

    def draw_losses(self, figure: Figure | SubFigure) -> None:
        """Draws masked-LM losses while training, and on held-out text."""
        curves = {
            name: plot.curves_of(lines, "masked_lm_loss")
            for name, lines in self.records.items()
        }
        plot.draw_curves(figure, curves, _LABELS)
        (axes,) = figure.axes
        for name, lines in self.records.items():
            end, loss = lines[-1]["global_step"], lines[-1]["masked_lm_loss"]
            axes.plot(end, loss, "o", mfc="none", color=_COLORS[name])
        transfer = self.settings["student"]["num_transfer_steps"]
        axes.axvspan(0, transfer, color="C0", alpha=0.12, lw=0)
        axes.annotate(
            "knowledge\ntransfer",
            (transfer / 2, 0.02),
            xycoords=axes.get_xaxis_transform(),
            **{"color": "C0", "ha": "center", "va": "bottom"},
        )
        axes.set_xlim(left=0)

    def draw_transfer(
        self, figure: Figure | SubFigure, metrics: str = ".*"
    ) -> None:
        """Draws the losses of each block's stage of knowledge transfer."""
        lines = self.records[DISTILLED]
        curves = plot.curves_of(lines, rf"{metrics}_block_\d+")
        steps = "optimiser step of knowledge transfer"
        plot.draw_curves(figure, {DISTILLED: curves}, _LABELS, steps)

    def draw_accuracies(self, figure: Figure | SubFigure) -> None:
        """Draws test accuracies with the 95 % interval of their examples."""
        from scipy.stats import binomtest

        axes = figure.subplots()
        number = self.held_out["num_test"]
        for rows in zip(*self.seeds, strict=True):
            name = rows[0]["name"]
            values = [100 * row["test_accuracy"] for row in rows]
            mean = statistics.fmean(values)
            right = round(mean / 100 * number)
            low, high = binomtest(right, number).proportion_ci(method="wilson")
            axes.barh(
                *(name, mean, 0.65),
                color=_COLORS.get(name, "#86b9dd"),
                xerr=np.abs([[100 * low - mean], [100 * high - mean]]),
                error_kw={"capsize": 3, "ecolor": "#8a8a8a"},
            )
            axes.text(101, name, f"{mean:.1f}", va="center")
            if len(values) > 1:
                axes.plot(values, [name] * len(values), "o", mfc="w", mec="k")
        axes.axvline(100 * self.held_out["largest_class"], ls="--", color="C2")
        axes.set_xlim(0, 100)
        axes.invert_yaxis()
        axes.set_xlabel("test accuracy (%); dashed: always the largest class")

    def draw_attention(self, figure: Figure | SubFigure, name: str) -> None:
        """Draws a model's maps: a row per block, a column per head."""
        maps = self.maps[name]
        rows = [f"block {block}" for block in range(1, len(maps) + 1)]
        highest = max(float(probs.max()) for probs in self.maps.values())
        plot.draw_attention(figure, maps, self.tokens, rows, "head", highest)

    def draw_journey(self, figure: Figure) -> None:
        """Draws one picture of stages, losses, accuracies and attention."""
        left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1))
        top, middle, bottom = left.subfigures(3, 1, height_ratios=(3, 3, 2.5))
        self.draw_transfer(top, "(normalized_feature_map|attention).*")
        self.draw_losses(middle)
        self.draw_accuracies(bottom)
        maps = np.stack([self.maps[name].mean(axis=1) for name in MODELS])
        plot.draw_attention(right, maps, self.tokens, list(MODELS), "block")
        right.suptitle("Attention, mean over heads", size="medium")


def attention_maps(folder: Path, inputs: Mapping) -> np.ndarray:
    """Returns a model's attention probabilities, [B, L, N, S, S]."""
    from mobilebert_tf.modeling.load import load

    probs = load(folder).encoder(inputs, training=False).attention_probs
    return np.stack([np.asarray(block) for block in probs], axis=1)


def attention_difference(
    ours: np.ndarray, theirs: np.ndarray, input_mask: np.ndarray
) -> float:
    """Returns the share of attention that lies elsewhere, over real queries.

    This is the total variation: 0 for equal maps, 1 for disjoint ones.

    Args:
        ours: [B, L, N, S, S].
        theirs: the same of another model.
        input_mask: [B, S], 1 for real tokens.
    """
    elsewhere = 0.5 * np.abs(ours - theirs).sum(axis=-1)  # [B, L, N, S]
    return float(np.average(elsewhere.mean(axis=(1, 2)), weights=input_mask))


def _encode(folder: Path, texts: Sequence[str], max_seq_length: int) -> tuple:
    """Returns a model folder's tokenizer and the encoded texts."""
    from mobilebert_tf.tasks.labelled_texts import Examples, encode_examples
    from mobilebert_tf.text.tokenizer import WordpieceTokenizer

    tokenizer = WordpieceTokenizer.from_folder(folder)
    arrays = encode_examples(Examples(list(texts)), tokenizer, max_seq_length)
    return tokenizer, arrays


def page(demo: Demo) -> str:
    """Returns `report.html`: the template with everything filled in.

    A field of the template is `${expression:format}`, as in `str.format`.
    """
    number = len(demo.seeds)
    fields = {
        "demo": demo,
        "rows": results.mean_rows(demo.seeds),
        "sentence": escape(demo.sentence),
        "num_texts": min(_NUM_TEXTS, len(demo.texts)),
        "mean": f", mean of {number} seeds" if number > 1 else "",
        "circles": " Bars are means, circles the seeds." * (number > 1),
        "tables": "\n".join(map(_table, results.tables(demo.seeds))),
        "verdicts": _tags("p", results.verdicts(results.compare(demo.seeds))),
        "examples": "\n".join(
            f"<blockquote>{_tags('p', [text])}<p>int8 file: <b>"
            f"{escape(answer)}</b> ({probability:.0%}). Documented library: "
            f"{escape(library)}.</p></blockquote>"
            for text, library, answer, probability in demo.answers()
        ),
        "accuracies": _image(demo.draw_accuracies, 5.0, 2.7, "accuracies"),
        "losses": _image(demo.draw_losses, 5.0, 3.4, "masked-LM losses"),
        "transfer": _image(demo.draw_transfer, 5.0, 4.2, "transfer losses"),
        "attention": "\n".join(
            f"<figure><figcaption>{name}</figcaption>"
            + _image(
                *(functools.partial(demo.draw_attention, name=name), 5.6, 4.8),
                alt=f"attention, {name}",
            )
            + "</figure>"
            for name in MODELS
        ),
        "commands": escape("\n".join(demo.commands.values())),
    }
    template = resources.files(__package__).joinpath("report.html").read_text()
    return re.sub(
        r"\$(\{.*?\})", lambda field: field[1].format(**fields), template
    )


def _tags(tag: str, texts: Sequence[str]) -> str:
    return "\n".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


def _table(cells: Sequence[Sequence[str]]) -> str:
    """Returns an HTML table whose cells carry their headings, for phones."""
    header, *rows = [[escape(cell) for cell in row] for row in cells]
    labels = [heading.replace("\n", " ") for heading in header]
    lines = [
        "".join(
            f'<td data-label="{label}">{cell}</td>'
            for label, cell in zip(labels, row, strict=True)
        )
        for row in rows
    ]
    return (
        f"<table><thead><tr>{_tags('th', cells[0])}</tr></thead>\n<tbody>\n"
        + "\n".join(f"<tr>{line}</tr>" for line in lines)
        + "\n</tbody></table>"
    )


def _image(
    draw: Callable[[Figure], None], width: float, height: float, alt: str
) -> str:
    """Draws a figure, in inches; the page inverts it for its dark theme."""
    content = base64.b64encode(_png(draw, width, height, transparent=True))
    return f'<img alt="{alt}" src="data:image/png;base64,{content.decode()}">'


def _png(draw, width: float, height: float, **settings) -> bytes:
    with style.context(plot.STYLE):
        figure = Figure((width, height), layout="constrained")
        draw(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", **settings)
    return file.getvalue()


def main(options: ReportOptions) -> None:
    """Prints the table and writes the three files.

    Raises:
        InputError: if a step of the demo has not finished.
    """
    from mobilebert_tf.data.builtin import library_task

    folder = Path(options.demo_dir)
    demo = Demo(folder, options.seeds, library_task())
    content = {"held_out": demo.held_out, "seeds": demo.seeds}
    content["comparison"] = results.compare(demo.seeds)
    for cells in results.tables(demo.seeds):
        print(results.format_table(cells), end="\n\n")
    for text in results.verdicts(content["comparison"]):
        print(textwrap.fill(text, 78, subsequent_indent="  "))
    for name, data in {
        "results.json": (json.dumps(content, indent=2) + "\n").encode(),
        "report.html": page(demo).encode(),
        "demo.png": _png(demo.draw_journey, 11, 7),
    }.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_bytes(data)
        print(f"Wrote {os.path.relpath(folder / name)}", flush=True)


COMMAND = Command(main, (ReportOptions,), description=__doc__)

if __name__ == "__main__":
    COMMAND()
