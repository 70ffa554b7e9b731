"""A demo's table, `results.json` and `report.html`, from its folders.

    python -m mobilebert_tf.tools.report --demo_dir=demo

The page needs nothing from elsewhere, and reads on a phone and on paper.
"""

import os
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from mobilebert_tf import load
from mobilebert_tf.commands.flags import run_script
from mobilebert_tf.config import read_json_object
from mobilebert_tf.data.builtin import library_task
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.tasks.labelled_texts import Examples, encode_examples
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.tools import report_page, report_plots
from mobilebert_tf.tools.demo_results import (
    CARD_FILE,
    MODELS,
    HeldOut,
    Row,
    classifier_folder,
    read_results,
    read_rows,
    seed_folder,
)
from mobilebert_tf.tools.demo_steps import format_command
from mobilebert_tf.tools.demo_table import (
    HEADER,
    Comparison,
    format_table,
    mean_rows,
    notes,
    seed_cells,
    table_cells,
    write_results,
)
from mobilebert_tf.tools.report_attention import (
    attention_difference,
    attention_maps,
    example_sentence,
)
from mobilebert_tf.training.log import METRICS_FILE, read_metrics
from mobilebert_tf.training.loop import SETTINGS_FILE

REPORT_FILE = "report.html"

# Texts to find an example sentence in, and to compare attention on.
_NUM_TEXTS = 128


def report(demo_dir: str | os.PathLike, num_seeds: int) -> None:
    """Prints the table; writes `results.json` and `report.html`.

    Raises:
        InputError: if a step of the demo has not finished.
    """
    demo_dir = Path(demo_dir)
    seeds = [
        read_rows(seed_folder(demo_dir, seed))
        for seed in range(1, num_seeds + 1)
    ]
    splits = {
        split: Examples(texts, labels=labels)
        for split, (texts, labels) in library_task().items()
    }
    held_out = HeldOut.of(splits)
    remarks = notes(held_out, _settings(demo_dir)["max_seq_length"])
    print(format_table(HEADER, table_cells(mean_rows(seeds))), end="\n\n")
    if num_seeds > 1:
        print(format_table(*seed_cells(seeds)), end="\n\n")
    for text in remarks + Comparison.of(seeds).lines():
        print(textwrap.fill(text, 78, subsequent_indent="  "))
    print()
    written = [
        write_results(demo_dir, seeds, held_out),
        write_report(demo_dir, seeds, splits),
    ]
    for path in written:
        print(f"Wrote {os.path.relpath(path)}", flush=True)


def write_report(
    demo_dir: Path,
    seeds: Sequence[Sequence[Row]],
    splits: Mapping[str, Examples],
) -> Path:
    """Writes `report.html`; its curves and maps are those of the first seed.

    Args:
        demo_dir: the demo's folder.
        seeds: rows by seed.
        splits: the task's examples; `dev` and `test` are used.
    """
    held_out = HeldOut.of(splits)
    rows = mean_rows(seeds)
    content = report_page.page(
        "A MobileBERT from raw text",
        report_page.paragraph(_summary(demo_dir, rows, held_out)),
        report_page.heading(
            f"Results, mean of {len(seeds)} seeds"
            if len(seeds) > 1
            else "Results"
        ),
        report_page.table(HEADER, table_cells(rows)),
        report_page.note_list(
            notes(held_out, _settings(demo_dir)["max_seq_length"])
        ),
        *([report_page.table(*seed_cells(seeds))] if len(seeds) > 1 else []),
        *map(report_page.paragraph, Comparison.of(seeds).lines()),
        _accuracies(seeds, held_out),
        report_page.heading("Training"),
        *_losses(demo_dir),
        report_page.heading("Attention"),
        *_attention(demo_dir, splits["test"].texts_a),
        report_page.heading("Commands"),
        report_page.commands(read_commands(demo_dir)),
    )
    path = demo_dir / REPORT_FILE
    with atomic_file(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return path


def read_commands(demo_dir: Path) -> list[str]:
    """Returns the commands that made the folders, from their model cards."""
    pretrained = [demo_dir / folder for folder in MODELS.values()]
    classifiers = [classifier_folder(folder) for folder in pretrained]
    return [_command(folder / CARD_FILE) for folder in pretrained + classifiers]


def _command(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("    python "):
            return format_command(shlex.split(line)[1:])
    raise InputError(path, "the command that made the folder", "none")


def _settings(demo_dir: Path, model: str = "student, distilled") -> dict:
    return read_json_object(demo_dir / MODELS[model] / SETTINGS_FILE)


def _summary(demo_dir: Path, rows: Sequence[Row], held_out: HeldOut) -> str:
    teacher, student = rows[0], rows[1]
    transfer = _settings(demo_dir)["num_transfer_steps"]
    distillation = _settings(demo_dir)["num_train_steps"]
    teacher_steps = _settings(demo_dir, "teacher")["num_train_steps"]
    return (
        f"A teacher of {teacher.parameters:,.0f} parameters read the "
        "documentation of the installed Python packages for "
        f"{teacher_steps:,} steps. A MobileBERT student of "
        f"{student.parameters:,.0f} parameters was taught by it: block by "
        f"block ({transfer:,} steps), then by pre-training distillation "
        f"({distillation:,}). The same student trained on the same batches "
        f"for the same {transfer + distillation:,} steps without a teacher. "
        "All three were fine-tuned alike to tell which of "
        f"{held_out.num_classes} libraries a paragraph documents, and the "
        "distilled one was written as .tflite files, the last of them in "
        "integers throughout."
    )


def _accuracies(seeds: Sequence[Sequence[Row]], held_out: HeldOut) -> str:
    by_model = list(zip(*seeds, strict=True))
    figure = report_plots.accuracy_figure(
        [rows[0].name for rows in by_model],
        [[row.test_accuracy for row in rows] for rows in by_model],
        held_out.num_test,
        held_out.largest_class,
    )
    caption = (
        f"Accuracy on {held_out.num_test:,} held-out paragraphs, with the "
        "Wilson 95 % interval of so many examples."
    )
    if len(seeds) > 1:
        caption += " Bars are means, circles the seeds."
    return report_page.picture(figure, caption, "Bars of test accuracy")


def _losses(demo_dir: Path) -> list[str]:
    records = {
        name: read_metrics(demo_dir / folder / METRICS_FILE)
        for name, folder in MODELS.items()
    }
    curves = {
        name: [
            (line["global_step"], line["masked_lm_loss"])
            for line in lines[:-1]
            if "masked_lm_loss" in line
        ]
        for name, lines in records.items()
    }
    held_out = {
        name: read_results(demo_dir / folder)["masked_lm_loss"]
        for name, folder in MODELS.items()
    }
    transfer_steps = _settings(demo_dir)["num_transfer_steps"]
    return [
        report_page.picture(
            report_plots.masked_lm_figure(curves, held_out, transfer_steps),
            "Masked-LM loss while training, and on held-out text at the end. "
            "During knowledge transfer the student's loss has no masked LM. "
            "The teacher trains with dropout.",
            "Curves of masked-LM loss of the three models",
        ),
        report_page.picture(
            report_plots.transfer_figure(records["student, distilled"]),
            "Knowledge transfer: how far each block of the student is from "
            "the teacher's, in the stage that trains it.",
            "Curves of the four transfer losses of each block",
        ),
    ]


def _attention(demo_dir: Path, texts: Sequence[str]) -> list[str]:
    tokenizer = WordpieceTokenizer.from_folder(demo_dir / MODELS["teacher"])
    sentence = example_sentence(texts[:_NUM_TEXTS], tokenizer)
    length = _settings(demo_dir)["max_seq_length"]
    one = encode_examples(Examples([sentence]), tokenizer, length)
    size = int(one["input_mask"].sum())
    one = {name: values[:, :size] for name, values in one.items()}
    many = encode_examples(Examples(texts[:_NUM_TEXTS]), tokenizer, length)
    maps, everywhere = {}, {}
    for name, folder in MODELS.items():
        encoder = load(demo_dir / folder).encoder
        maps[name] = attention_maps(encoder, one)[0]
        everywhere[name] = attention_maps(encoder, many)
    tokens = [tokenizer.vocab[index] for index in one["input_ids"][0]]
    largest = max(float(probs.max()) for probs in maps.values())
    pictures = [
        report_page.picture(
            report_plots.attention_figure(probs, tokens, largest),
            name,
            f"Attention maps: {name}",
        )
        for name, probs in maps.items()
    ]
    differences = {
        name: attention_difference(
            probs, everywhere["teacher"], many["input_mask"]
        )
        for name, probs in everywhere.items()
    }
    distilled, alone = (differences[name] for name in list(MODELS)[1:])
    return [
        report_page.paragraph(
            f"Where each head looks in “{sentence}”: rows ask, columns are "
            "looked at, and all models share one scale. Over "
            f"{len(many['input_ids'])} held-out paragraphs, {distilled:.0%} "
            "of the distilled student's attention lies elsewhere than the "
            f"teacher's; without a teacher it is {alone:.0%}."
        ),
        report_page.side_by_side(pictures),
    ]


def main(_) -> None:
    """Reads the demo's folders, prints and writes."""
    report(flags.FLAGS.demo_dir, flags.FLAGS.seeds)


if __name__ == "__main__":
    flags.DEFINE_string("demo_dir", "demo", "Folder that the demo wrote.")
    flags.DEFINE_integer("seeds", 1, "Seeds to report on.", lower_bound=1)
    run_script(main)
