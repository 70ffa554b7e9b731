"""A classification task: a user's files, encoded, and the model for it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.data.text_classification import (
    Examples,
    encode_examples,
    label_names,
    read_examples,
)
from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.modeling.model_folder import CONFIG_FILE
from mobilebert_tf.modeling.models import MobileBertForSequenceClassification
from mobilebert_tf.modeling.pretrained import (
    label_names_of,
    load,
    load_encoder_weights,
)

# The name of the single output of a regression.
REGRESSION_LABELS = ("value",)


@dataclasses.dataclass(frozen=True)
class ClassificationTask:
    """Encoded examples by split, and the names of the classes.

    Attributes:
        label_names: in the order of the logits; one name is a regression.
        splits: arrays of `encode_examples` by split: some of `train`, `dev`,
            `test` and, without labels, `predict`.
    """

    label_names: tuple[str, ...]
    splits: dict[str, dict[str, np.ndarray]]

    @property
    def num_train_examples(self) -> int:
        """Number of training examples, 0 if there is no such split."""
        return len(self.splits.get("train", {}).get("labels", ()))


def examples_from_files(
    files: Mapping[str, str | None],
    *,
    text_column: str,
    text_b_column: str | None,
    label_column: str,
    regression: bool,
    known_labels: tuple[str, ...] | None,
) -> dict[str, Examples]:
    """Reads a user's files, by split; `predict` needs no labels.

    Labels of later splits must be among those of the training file, or of
    `known_labels` if there is none.

    Raises:
        InputError: for a malformed row or an unknown label.
    """
    splits = {}
    for split, path in files.items():
        if path is None:
            continue
        splits[split] = read_examples(
            path,
            text_column,
            text_b_column,
            label_column,
            has_labels=split != "predict",
            regression=regression,
            known_labels=None if regression else known_labels,
        )
        if split == "train" and not regression:
            known_labels = tuple(label_names(splits[split]))
    return splits


def encode_task(
    splits: Mapping[str, Examples],
    names: tuple[str, ...],
    tokenizer: WordpieceTokenizer,
    max_seq_length: int,
) -> ClassificationTask:
    """Encodes all splits of a task."""
    regression = names == REGRESSION_LABELS
    return ClassificationTask(
        names,
        {
            split: encode_examples(
                examples,
                tokenizer,
                max_seq_length,
                None if regression else names,
            )
            for split, examples in splits.items()
        },
    )


def saved_label_names(folder: str | Path) -> tuple[str, ...] | None:
    """Returns the classes of a classifier's folder, None for other models."""
    path = Path(folder) / CONFIG_FILE
    values = read_json_object(path)
    architectures = values.get("architectures")
    if architectures != [MobileBertForSequenceClassification.architecture]:
        return None
    return tuple(label_names_of(path, values))


def build_classifier(
    folder: str | Path, names: tuple[str, ...]
) -> MobileBertForSequenceClassification:
    """Returns a classifier that starts from a model folder.

    A classifier with the same classes keeps its head; from any other model
    the encoder is taken and the head is new.
    """
    if saved_label_names(folder) == names:
        return load(folder)
    config = MobileBertConfig.from_json(Path(folder) / CONFIG_FILE)
    model = MobileBertForSequenceClassification(config, names)
    load_encoder_weights(model.encoder, folder)
    return model
