"""Options of pre-training text; importing them needs no TensorFlow."""

import dataclasses

from mobilebert_tf.errors import InputError
from mobilebert_tf.options import Options, option


@dataclasses.dataclass(frozen=True)
class ExampleOptions(Options):
    """What text is read, and how examples are made of it."""

    group = "data"

    input_files: tuple[str, ...] = option(
        (),
        "Text files or globs, plain or .gz: a sentence or paragraph a line, a "
        "blank line between documents. A .gz file stays in one shard.",
        everyday=True,
    )
    tfds_name: str | None = option(
        None,
        "Prepared text dataset of TensorFlow Datasets to read instead, for "
        "example wikipedia/20230601.en or wiki40b/en.",
    )
    tfds_data_dir: str | None = option(
        None,
        "Folder in which that dataset was prepared; by default "
        "~/tensorflow_datasets.",
    )
    max_seq_length: int = option(
        128, "Length of the longest sequence.", min=8, everyday=True
    )
    max_predictions_per_seq: int | None = option(
        None,
        "Largest number of masked pieces in a sequence; by default "
        "--masked_lm_prob times --max_seq_length.",
        min=1,
    )
    masked_lm_prob: float = option(
        0.15, "Share of pieces to mask.", min=0.0, max=1.0
    )
    whole_word_mask: bool = option(False, "Mask all pieces of a word or none.")

    def __post_init__(self):
        super().__post_init__()
        if self.num_predictions > self.max_seq_length:
            raise InputError(
                "--max_predictions_per_seq",
                f"at most --max_seq_length={self.max_seq_length}",
                self.max_predictions_per_seq,
            )

    @property
    def num_predictions(self) -> int:
        """P, the masked positions of each sequence."""
        return self.max_predictions_per_seq or max(
            1, round(self.masked_lm_prob * self.max_seq_length)
        )


@dataclasses.dataclass(frozen=True)
class TextOptions(ExampleOptions):
    """The text or records that pre-training reads."""

    input_files: tuple[str, ...] = option(
        (),
        "Text files or globs, plain or .gz: a sentence or paragraph a line, a "
        "blank line between documents. Or TFRecord files from `mobilebert "
        "shards`. By default, the documentation of the installed Python "
        "packages.",
        everyday=True,
    )
    held_out_fraction: float = option(
        0.02,
        "Share of the documents to evaluate on instead of training.",
        min=0.0,
        max=0.5,
    )

    def description(self) -> str:
        """Names the text, for model cards."""
        if self.tfds_name:
            return self.tfds_name
        if self.input_files:
            return ", ".join(self.input_files)
        return "documentation of the installed Python packages"


@dataclasses.dataclass(frozen=True)
class ShardOptions(ExampleOptions):
    """Everything that decides the examples of TFRecord files."""

    vocab_file: str | None = option(
        None, "Vocabulary, one piece a line.", required=True
    )
    do_lower_case: bool | None = option(
        None,
        "The vocabulary is uncased: the text loses case and marks. The "
        "default, refused for text with many marks.",
        everyday=True,
    )
    short_seq_prob: float = option(
        0.1, "Share of documents with shorter pairs.", min=0.0, max=1.0
    )
    dupe_factor: int = option(
        10,
        "Times that the text is used, each time with other pairs and masks.",
        min=1,
        everyday=True,
    )
    num_shards: int = option(
        16, "Number of files to write.", min=1, everyday=True
    )
    seed: int = option(1, "Random seed.", min=0, everyday=True)
