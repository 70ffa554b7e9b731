"""The tasks of GLUE as data: files, columns, labels, sizes, names elsewhere.

Owns what there is to know about each task, so that reading, training and
writing a submission need no branch by task. Files are those that GLUE hands
out: tab-separated, a quote being an ordinary character, and their labels are
what a submission must hold. QQP is the cleaned edition of the year 2020; rows
of the first one are broken and are refused.

Hyper-parameters: the paper searches batches of 16, 32 and 48, rates of 1e-5 to
1e-4 and 2 to 10 epochs on dev (section 4.4.1) and does not say what it found.
The defaults are points of that grid: Google's later 3e-5, 32 and about four
epochs for MNLI, the same for the other large tasks; for the small ones the
larger rate and more epochs, since the release's authors say that GLUE needs
longer training than SQuAD (5 epochs at 4e-5).
"""

import dataclasses

_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")


@dataclasses.dataclass(frozen=True)
class GlueSplit:
    """A part of a task.

    Attributes:
        file: its name in the task's folder.
        num_examples: rows of the official file.
        tfds_split: its name in TensorFlow Datasets.
        submission: what a file of its predictions is called; None if its
            labels are known.
    """

    file: str
    num_examples: int
    tfds_split: str
    submission: str | None = None


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """A task of GLUE.

    Attributes:
        name: as in `--task`.
        folder: of its files, in a folder of all tasks.
        splits: by name; `train`, and names that begin with `dev` or `test`.
        text_columns: of the text, or of both.
        label_column: of the label.
        label_names: the classes; None for a regression.
        file_labels: the same as files and submissions spell them.
        header: columns of labelled files that have no header line.
        may_be_empty: whether official files have empty texts.
        tfds_texts: features of TensorFlow Datasets with the texts, where they
            are not called as in the files.
        learning_rate, batch_size, num_epochs: defaults, see above.
    """

    name: str
    folder: str
    splits: dict[str, GlueSplit]
    text_columns: tuple[str, ...]
    label_column: str
    label_names: tuple[str, ...] | None
    file_labels: tuple[str, ...] = _BINARY
    header: tuple[str, ...] | None = None
    may_be_empty: bool = False
    tfds_texts: tuple[str, ...] = ()
    learning_rate: float = 5e-5
    batch_size: int = 32
    num_epochs: int = 10

    @property
    def tfds_name(self) -> str:
        """The name in TensorFlow Datasets."""
        return f"glue/{self.name}"

    @property
    def tfds_columns(self) -> tuple[str, ...]:
        """The features that hold the texts in TensorFlow Datasets."""
        return self.tfds_texts or self.text_columns

    def wanted_splits(
        self, do_train: bool, do_eval: bool, do_predict: bool
    ) -> list[str]:
        """The splits that verbs need; training chooses its model on dev."""
        wanted = {"train": do_train, "dev": do_train or do_eval}
        wanted["test"] = do_predict
        return [name for name in self.splits if wanted[name.partition("_")[0]]]


def _splits(submission: str, train: int, dev: int, test: int):
    return {
        "train": GlueSplit("train.tsv", train, "train"),
        "dev": GlueSplit("dev.tsv", dev, "validation"),
        "test": GlueSplit("test.tsv", test, "test", f"{submission}.tsv"),
    }


_MNLI_SPLITS = {
    "train": GlueSplit("train.tsv", 392_702, "train"),
    "dev_matched": GlueSplit("dev_matched.tsv", 9_815, "validation_matched"),
    "dev_mismatched": GlueSplit(
        "dev_mismatched.tsv", 9_832, "validation_mismatched"
    ),
    "test_matched": GlueSplit(
        "test_matched.tsv", 9_796, "test_matched", "MNLI-m.tsv"
    ),
    "test_mismatched": GlueSplit(
        "test_mismatched.tsv", 9_847, "test_mismatched", "MNLI-mm.tsv"
    ),
}

GLUE_TASKS = {
    task.name: task
    for task in (
        GlueTask(
            "cola",
            "CoLA",
            _splits("CoLA", 8_551, 1_043, 1_063),
            ("sentence",),
            "acceptable",
            ("unacceptable", "acceptable"),
            header=("source", "acceptable", "author_mark", "sentence"),
        ),
        GlueTask(
            "sst2",
            "SST-2",
            _splits("SST-2", 67_349, 872, 1_821),
            ("sentence",),
            "label",
            ("negative", "positive"),
            learning_rate=3e-5,
            num_epochs=4,
        ),
        GlueTask(
            "mrpc",
            "MRPC",
            _splits("MRPC", 3_668, 408, 1_725),
            ("#1 String", "#2 String"),
            "Quality",
            ("not_equivalent", "equivalent"),
            tfds_texts=("sentence1", "sentence2"),
        ),
        GlueTask(
            "stsb",
            "STS-B",
            _splits("STS-B", 5_749, 1_500, 1_379),
            ("sentence1", "sentence2"),
            "score",
            None,
        ),
        GlueTask(
            "qqp",
            "QQP",
            _splits("QQP", 363_846, 40_430, 390_965),
            ("question1", "question2"),
            "is_duplicate",
            ("not_duplicate", "duplicate"),
            # Three of the questions that Quora published are empty.
            may_be_empty=True,
            learning_rate=3e-5,
            num_epochs=4,
        ),
        GlueTask(
            "mnli",
            "MNLI",
            _MNLI_SPLITS,
            ("sentence1", "sentence2"),
            "gold_label",
            _NLI,
            _NLI,
            tfds_texts=("premise", "hypothesis"),
            learning_rate=3e-5,
            num_epochs=4,
        ),
        GlueTask(
            "qnli",
            "QNLI",
            _splits("QNLI", 104_743, 5_463, 5_463),
            ("question", "sentence"),
            "label",
            _ENTAILMENT,
            _ENTAILMENT,
            learning_rate=3e-5,
            num_epochs=4,
        ),
        GlueTask(
            "rte",
            "RTE",
            _splits("RTE", 2_490, 277, 3_000),
            ("sentence1", "sentence2"),
            "label",
            _ENTAILMENT,
            _ENTAILMENT,
        ),
        GlueTask(
            "wnli",
            "WNLI",
            _splits("WNLI", 635, 71, 146),
            ("sentence1", "sentence2"),
            "label",
            ("not_entailment", "entailment"),
        ),
        # The diagnostic set: for models of MNLI, and with hidden labels.
        GlueTask(
            "ax",
            "diagnostic",
            {"test": GlueSplit("diagnostic.tsv", 1_104, "test", "AX.tsv")},
            ("sentence1", "sentence2"),
            "label",
            _NLI,
            _NLI,
            tfds_texts=("premise", "hypothesis"),
        ),
    )
}
