"""Where classification examples come from: GLUE, a user's files, the built-in.

Owns which of them is read, and that labels of dev and test are among those of
the training examples.
"""

import dataclasses
from collections.abc import Mapping

from mobilebert_tf.data.builtin import library_task
from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.glue import GLUE_TASKS, read_glue
from mobilebert_tf.tasks.labelled_texts import (
    Examples,
    label_names,
    read_examples,
)

# Kinds of tasks, by Hugging Face's names for them in `config.json`.
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"

BUILT_IN = "library"


@dataclasses.dataclass(frozen=True)
class TaskSource:
    """Where examples come from.

    Attributes:
        task: of `GLUE_TASKS`, or `BUILT_IN`, which None stands for where no
            file is given.
        data_dir: of GLUE's TSV files; None: TensorFlow Datasets.
        files: a user's files by split, `predict` without labels.
        text_column, text_b_column, label_columns: of those files.
        kind: of the task they are for.
        label_separator: between several labels in a cell.
        max_train_examples: take the first so many only.
    """

    task: str | None = None
    data_dir: str | None = None
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    text_column: str = "text"
    text_b_column: str | None = None
    label_columns: tuple[str, ...] = ("label",)
    kind: str = SINGLE_LABEL
    label_separator: str = ","
    max_train_examples: int | None = None

    def read(
        self,
        verbs: tuple[bool, bool, bool],
        known_labels: tuple[str, ...] | None,
    ) -> dict[str, Examples]:
        """Reads the splits that verbs (train, eval, predict) need.

        Args:
            verbs: what is going to be done.
            known_labels: the only ones there may be; None: labels of later
                splits must be among those of the training file.

        Raises:
            InputError: for a malformed row, an unknown label, or contradictory
                sources.
        """
        if self.files and self.task:
            raise InputError("--task", "either a task or files", "both")
        if self.data_dir and self.task not in GLUE_TASKS:
            raise InputError("--data_dir", "a --task of GLUE", self.task)
        if self.task in GLUE_TASKS:
            wanted = GLUE_TASKS[self.task].wanted_splits(*verbs)
            splits = read_glue(self.task, self.data_dir, wanted)
        elif self.files:
            splits = self._read_files(known_labels)
        else:
            splits = self._read_built_in(known_labels)
        if self.max_train_examples and "train" in splits:
            splits["train"] = splits["train"].first(self.max_train_examples)
        return splits

    def _read_files(
        self, known_labels: tuple[str, ...] | None
    ) -> dict[str, Examples]:
        splits = {}
        named = self.kind != REGRESSION
        columns = self.label_columns
        for split, path in self.files.items():
            splits[split] = read_examples(
                path,
                self.text_column,
                self.text_b_column,
                columns[0] if len(columns) == 1 else columns,
                has_labels=split != "predict",
                regression=not named,
                known_labels=known_labels if named else None,
                multi_label=self.kind == MULTI_LABEL,
                label_separator=self.label_separator,
            )
            if split == "train" and named and known_labels is None:
                known_labels = tuple(label_names(splits[split]))
        return splits

    def _read_built_in(
        self, known_labels: tuple[str, ...] | None
    ) -> dict[str, Examples]:
        if self.kind != SINGLE_LABEL:
            raise InputError(
                "--train_file, --dev_file or --predict_file",
                f"a file: the built-in task is no {self.kind}",
                "none",
            )
        splits = {
            split: Examples(texts, labels=labels)
            for split, (texts, labels) in library_task().items()
        }
        names = label_names(splits["train"])
        if known_labels is not None and set(names) - set(known_labels):
            raise InputError(
                "--model",
                f"a classifier of the built-in task ({', '.join(names)})",
                f"one of {', '.join(known_labels)}",
            )
        return splits
