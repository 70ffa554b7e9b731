"""A token classification task: its sentences, encoded, and the model for it.

Owns which tags there are, how a model is scored and chosen, what is written of
its predictions, and how a tagger begins.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.data.conll import Sentences, write_tags
from mobilebert_tf.data.sentence_sources import SentenceSource
from mobilebert_tf.data.tag_schemes import (
    NO_SCHEME,
    check_scheme,
    recognise_scheme,
)
from mobilebert_tf.data.token_windows import by_sentence, encode_sentences
from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.errors import InputError
from mobilebert_tf.evaluation.entities import (
    accuracy,
    entity_metrics,
    metrics_by_type,
    most_frequent_tags,
)
from mobilebert_tf.modeling.model_folder import CONFIG_FILE
from mobilebert_tf.modeling.models import MobileBertForTokenClassification
from mobilebert_tf.modeling.pretrained import (
    label_names_of,
    load,
    load_encoder_weights,
)


@dataclasses.dataclass(frozen=True)
class TokenClassificationTask:
    """Encoded sentences by split, and what their tags are.

    Attributes:
        model_class: of the models for it.
        label_names: the tags in the order of the logits.
        sentences: by split: `train`, `dev`, `test` and `predict`.
        splits: their arrays of `encode_sentences`.
        scheme: of `SCHEMES`; None if no tags were read.
    """

    model_class = MobileBertForTokenClassification

    label_names: tuple[str, ...]
    sentences: dict[str, Sentences]
    splits: dict[str, dict[str, np.ndarray]]
    scheme: str | None

    @property
    def num_train_examples(self) -> int:
        """Number of training windows, 0 if there is no such split."""
        return len(self.splits.get("train", {}).get("labels", ()))

    def labelled(self, prefix: str) -> dict[str, dict[str, np.ndarray]]:
        """Splits with tags whose names begin with `prefix`."""
        return {
            split: arrays
            for split, arrays in self.splits.items()
            if split.startswith(prefix) and "labels" in arrays
        }

    def of_length(
        self, max_seq_length: int, tokenizer: WordpieceTokenizer
    ) -> "TokenClassificationTask":
        """The same task in windows of another length."""
        widths = {rows["input_ids"].shape[1] for rows in self.splits.values()}
        if widths <= {max_seq_length}:
            return self
        splits = {
            split: encode_sentences(
                sentences.tokens,
                sentences.tags,
                tokenizer,
                max_seq_length,
                self.label_names,
            ).arrays
            for split, sentences in self.sentences.items()
        }
        return dataclasses.replace(self, splits=splits)

    @property
    def chosen_by(self) -> tuple[str]:
        """The metric by which a model is chosen."""
        return ("accuracy",) if self.scheme == NO_SCHEME else ("f1",)

    def check_choice(self, num_runs: int, patience: int | None) -> None:
        """Checks that there is something to choose by.

        Args:
            num_runs: to choose among.
            patience: with which a run waits for a better score, or None.

        Raises:
            InputError: if not.
        """
        if not self.labelled("dev") and (num_runs > 1 or patience is not None):
            raise InputError(
                "--dev_file", "sentences to choose the best run by", "none"
            )

    def predicted_tags(self, predictor, split: str) -> list[list[str]]:
        """The likeliest tag of each token, by sentence.

        Args:
            predictor: from arrays to logits (see `TokenPredictor`).
            split: of `sentences`.
        """
        logits = predictor(self.splits[split])
        tags = [self.label_names[index] for index in logits.argmax(axis=-1)]
        return by_sentence(tags, self.sentences[split].tokens)

    def metrics(self, predictor, prefix: str) -> dict[str, float]:
        """Scores the splits with tags that begin with `prefix`.

        Returns:
            `SPLIT_METRIC` values of `entity_metrics`; without entities the
            accuracy alone.
        """
        return {
            name: value
            for split in self.labelled(prefix)
            for name, value in self._scores(
                split, self.predicted_tags(predictor, split)
            ).items()
        }

    def score(self, metrics: Mapping[str, float]) -> float:
        """The one number of dev's metrics by which a model is chosen."""
        (name,) = self.chosen_by
        return metrics[f"dev_{name}"]

    def finish(self, predictor, folder: str | os.PathLike, verbs) -> dict:
        """Evaluates and predicts, prints a table, writes what was predicted.

        Args:
            predictor: as it says.
            folder: gets `SPLIT_predictions.conll`, with token, tag and
                predicted tag, and `predictions.conll` without the tag.
            verbs: whether to train (which was done), evaluate and predict.

        Returns:
            The metrics of dev and test.
        """
        results = {}
        for split, sentences in self.sentences.items():
            is_predicted = split == "predict"
            if split == "train" or not verbs[2 if is_predicted else 1]:
                continue
            tags = self.predicted_tags(predictor, split)
            name = "" if is_predicted else f"{split}_"
            columns = [tags] if is_predicted else [sentences.tags, tags]
            path = Path(folder) / f"{name}predictions.conll"
            write_tags(path, sentences.tokens, *columns)
            print(f"Wrote {path}", flush=True)
            if not is_predicted:
                results |= self._scores(split, tags)
                print("\n".join(self._table(split, tags)), flush=True)
        return results

    def _scores(self, split: str, tags: list[list[str]]) -> dict[str, float]:
        right = self.sentences[split].tags
        if self.scheme == NO_SCHEME:
            return {f"{split}_accuracy": accuracy(right, tags)}
        scores = entity_metrics(right, tags)
        return {f"{split}_{name}": value for name, value in scores.items()}

    def _table(self, split: str, tags: list[list[str]]) -> list[str]:
        """Lines by type, and, for comparison, of each token's usual tag."""
        right = self.sentences[split].tags
        lines = []
        if self.scheme != NO_SCHEME:
            lines = [
                f"{split} {kind}: " + _percent(scores)
                for kind, scores in metrics_by_type(right, tags).items()
            ]
        if "train" in self.sentences:
            train = self.sentences["train"]
            tokens = self.sentences[split].tokens
            usual = most_frequent_tags(train.tokens, train.tags, tokens)
            scores = self._scores(split, usual)
            scores = {name.partition("_")[2]: scores[name] for name in scores}
            lines.append(f"{split}, each token's usual tag: {_percent(scores)}")
        return lines


def read_task(
    source: SentenceSource,
    verbs: tuple[bool, bool, bool],
    model_folder: str | os.PathLike,
    tokenizer: WordpieceTokenizer,
    max_seq_length: int,
    calibrates: bool = False,
) -> TokenClassificationTask:
    """Reads and encodes what verbs (train, eval, predict) need.

    Args:
        source: where sentences come from.
        verbs: whether to train, evaluate and predict.
        model_folder: of the model to start from.
        tokenizer: that model's.
        max_seq_length: columns of the arrays.
        calibrates: whether training sentences are wanted without training.

    Raises:
        InputError: a file is malformed, its tags are not of one scheme or not
            among those to learn, there is nothing to train on, or, without
            training, no tagger to start from.
    """
    do_train = verbs[0]
    known = saved_tags(model_folder)
    if not do_train and known is None:
        raise InputError(model_folder, "a tagger", "another kind of model")
    splits = source.read((do_train or calibrates, *verbs[1:]))
    if do_train and "train" not in splits:
        raise InputError("--train_file", "a file, or --nodo_train", "none")
    tagged = [some for some in splits.values() if some.tags is not None]
    scheme = source.scheme
    for sentences in tagged:
        scheme = scheme or recognise_scheme(sentences)
        check_scheme(sentences, scheme)
    names = _tags_to_learn(splits["train"], known) if do_train else known
    for sentences in tagged:
        sentences.check_known(names)
    if source.max_train_examples and "train" in splits:
        splits["train"] = splits["train"].first(source.max_train_examples)
    arrays = {
        split: _encoded(split, sentences, tokenizer, max_seq_length, names)
        for split, sentences in splits.items()
    }
    return TokenClassificationTask(names, splits, arrays, scheme)


def saved_tags(folder: str | os.PathLike) -> tuple[str, ...] | None:
    """Returns the tags of a folder's tagger, None if it is none."""
    path = Path(folder) / CONFIG_FILE
    values = read_json_object(path)
    wanted = [MobileBertForTokenClassification.architecture]
    if values.get("architectures") != wanted:
        return None
    return tuple(label_names_of(path, values))


def build_tagger(
    folder: str | Path, names: tuple[str, ...]
) -> MobileBertForTokenClassification:
    """Returns a tagger that starts from a model folder.

    A tagger with the same tags keeps its head; from any other model the
    encoder is taken and the head is new.
    """
    if saved_tags(folder) == names:
        return load(folder)
    config = MobileBertConfig.from_json(Path(folder) / CONFIG_FILE)
    model = MobileBertForTokenClassification(config, names)
    load_encoder_weights(model.encoder, folder)
    return model


def _tags_to_learn(
    train: Sentences, known: tuple[str, ...] | None
) -> tuple[str, ...]:
    names = train.tag_names
    if len(names) < 2:
        expected = "at least two different tags"
        raise InputError(train.path, expected, ", ".join(names))
    # A tagger that is trained on keeps the tags that it has, in their order.
    return known if known and set(names) <= set(known) else names


def _encoded(
    split: str,
    sentences: Sentences,
    tokenizer: WordpieceTokenizer,
    max_seq_length: int,
    names: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """Arrays of a split; prints what became of long sentences."""
    arrays, num_divided, num_cut = encode_sentences(
        sentences.tokens, sentences.tags, tokenizer, max_seq_length, names
    )
    note = f"{len(sentences):,} sentences, {sentences.num_tokens:,} tokens"
    if num_divided:
        number = len(arrays["input_ids"])
        note += f", {number:,} windows ({num_divided:,} sentences are longer)"
    if num_cut:
        note += f", {num_cut:,} tokens longer than a window cut"
    print(f"{split}: {note}", flush=True)
    return arrays


def _percent(scores: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {100 * scores[name]:.2f}" for name in scores)
