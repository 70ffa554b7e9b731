"""Where tagged sentences come from: a user's files, or the built-in ones.

Owns which splits are read for what is going to be done.
"""

import dataclasses
from collections.abc import Mapping

from mobilebert_tf.data.conll import Sentences, read_sentences
from mobilebert_tf.data.documented_code import code_task


@dataclasses.dataclass(frozen=True)
class SentenceSource:
    """Where sentences come from.

    Attributes:
        files: CoNLL files by split: `train`, `dev`, `test`, and `predict`
            without tags. None at all: the built-in sentences.
        token_column, tag_column: of those files (see `read_sentences`).
        scheme: of `SCHEMES`; None: as the tags are.
        max_train_examples: learn from the first so many sentences only; their
            tags are still those of all.
    """

    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    token_column: int = 1
    tag_column: int = -1
    scheme: str | None = None
    max_train_examples: int | None = None

    def read(self, verbs: tuple[bool, bool, bool]) -> dict[str, Sentences]:
        """Reads the splits that verbs (train, eval, predict) need.

        Raises:
            InputError: a file is malformed.
        """
        do_train, do_eval, do_predict = verbs
        needed = {
            "train": do_train,
            # Also what a model is chosen by.
            "dev": do_eval or do_train,
            "test": do_eval,
            "predict": do_predict,
        }
        if self.files:
            return {
                split: read_sentences(
                    path,
                    self.token_column,
                    self.tag_column,
                    has_tags=split != "predict",
                )
                for split, path in self.files.items()
                if needed[split]
            }
        built_in = code_task()
        return {split: built_in[split] for split in built_in if needed[split]}
