"""Finishing a model folder: weights, tokenizer and its card.

The card is the folder's `README.md`: how the model was made and what it scored.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from mobilebert_tf.files import atomic_file
from mobilebert_tf.text.tokenizer import WordpieceTokenizer


def write_model_folder(
    folder: str | os.PathLike,
    model: keras.Model,
    tokenizer: WordpieceTokenizer,
    **card,
) -> None:
    """Writes weights, config, tokenizer and card; other files stay.

    `card` are further arguments of `write_model_card`.
    """
    casing = "uncased, without accents and other marks"
    if not tokenizer.do_lower_case:
        casing = "cased"
    card["notes"] = {"Text": casing, **card["notes"]}
    model.save_pretrained(folder)
    tokenizer.write(folder, model.config.max_position_embeddings)
    write_model_card(folder, model, **card)
    print(f"Wrote {folder}", flush=True)


def write_model_card(
    folder: str | os.PathLike,
    model: keras.Model,
    *,
    title: str,
    command: str,
    results: Mapping[str, float],
    notes: Mapping[str, object],
    floors: Mapping[str, float] | None = None,
) -> None:
    """Writes `README.md` into a model folder, with Hugging Face's metadata.

    Args:
        folder: a model folder.
        model: the model in it.
        title: first heading.
        command: the one that made it.
        results: metrics on held-out data; may be empty.
        notes: further lines by name.
        floors: what needs no model scores, by the names of the metrics.
    """
    num_parameters = sum(
        int(np.prod(weight.shape)) for weight in model.trainable_weights
    )
    config = model.config
    rows = {
        "Class": model.architecture,
        "Parameters": f"{num_parameters:,}",
        "Blocks": config.num_hidden_layers,
        "Feature map width": config.hidden_size,
        "Width inside a block": config.intra_bottleneck_size,
        "Normalisation": config.normalization_type,
        "Vocabulary": config.vocab_size,
    }
    right = "Value | Floor" if floors else "Value"
    scores = {name: f"{value:.4f}" for name, value in results.items()}
    for name in scores if floors else ():
        scores[name] += f" | {floors[name]:.4f}" if name in floors else " | "
    lines = [
        "---",
        "library_name: keras",
        "tags: [mobilebert]",
        "---",
        f"# {title}",
        "",
        "Made by mobilebert_tf with",
        "",
        f"    {command}",
        "",
        *_table("Model", "", rows),
        *(_table("Metric (held-out)", right, scores) if scores else ()),
        *[f"- {name}: {value}" for name, value in notes.items()],
        "",
        "Open it with `mobilebert_tf.load(folder)`, or, unless it is a "
        "teacher, with Hugging Face transformers.",
    ]
    with atomic_file(Path(folder) / "README.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _table(left: str, right: str, rows: Mapping[str, object]) -> list[str]:
    return [
        f"| {left} | {right} |",
        "|---" * (2 + right.count("|")) + "|",
        *[f"| {name} | {value} |" for name, value in rows.items()],
        "",
    ]
