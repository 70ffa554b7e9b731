"""Where tagged sentences come from: a user's files, or the built-in ones.

Owns which splits are read for what is going to be done.

Sentences of tokens as model inputs, each token predicted once.

Owns which pieces a token becomes and how sentences that are too long are cut.
The first piece of a token carries its label and its prediction, as in BERT;
other pieces and [CLS], [SEP], [PAD] carry none. A longer sentence becomes
several windows that overlap, so that a token is predicted where there is text
on both sides of it.

Shape letters: W windows, S sequence length.

Token classification: the loss, and predictions.

A token classification task: its sentences, encoded, and the model for it.

Owns which tags there are, how a model is scored and chosen, what is written of
its predictions, and how a tagger begins.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.special
import tensorflow as tf
from keras import ops

from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.data.batches import (
    BUCKET_LENGTHS,
    INPUTS,
    evaluation_batches,
)
from mobilebert_tf.data.builtin import code_task
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.folder import CONFIG_FILE
from mobilebert_tf.modeling.load import (
    label_names_of,
    load,
    load_encoder_weights,
)
from mobilebert_tf.modeling.losses import masked_lm_loss
from mobilebert_tf.modeling.models import MobileBertForTokenClassification
from mobilebert_tf.options import Options, option
from mobilebert_tf.tasks.conll import (
    NO_SCHEME,
    SCHEMES,
    Sentences,
    check_scheme,
    read_sentences,
    recognise_scheme,
    write_tags,
)
from mobilebert_tf.tasks.metrics import (
    accuracy,
    entities,
    entity_metrics,
    metrics_by_type,
    most_frequent_tags,
)
from mobilebert_tf.tasks.task import (
    Actions,
    Task,
    check_max_seq_length,
    model_architecture,
    saved_label_names,
)
from mobilebert_tf.text.normalization import split_words
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.inference import inference_step


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
        return {
            split: Sentences(
                f"built-in {split} sentences",
                tokens,
                tags,
                # In a file of these sentences, a blank line after each.
                np.cumsum([1, *(len(row) + 1 for row in tokens[:-1])]).tolist(),
            )
            for split, (tokens, tags) in code_task().items()
            if needed[split]
        }


NUM_SPECIAL = 2  # [CLS] and [SEP].
# Share of a window's pieces that only are context of others, on each side
# where the sentence goes on.
_CONTEXT = 4


class EncodedSentences(NamedTuple):
    """Model inputs of sentences, and what became of the long ones.

    Attributes:
        arrays: `input_ids`, `input_mask` (1 for real pieces), `segment_ids`
            and `label_weights` (1 for the first piece of a token, in one
            window; in this order tokens are those of the sentences), int32
            [W, S]. With tags also `labels`, their class indices, int32 [W, S].
        num_divided: sentences of several windows.
        num_cut: tokens longer than a window, of which the first pieces stay.
    """

    arrays: dict[str, np.ndarray]
    num_divided: int
    num_cut: int


class _Window(NamedTuple):
    """Tokens `first` to `last`; predicted are `own_first` to `own_last`."""

    first: int
    own_first: int
    own_last: int
    last: int


def encode_sentences(
    tokens: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str]] | None,
    tokenizer: WordpieceTokenizer,
    max_seq_length: int,
    tag_names: Sequence[str] = (),
) -> EncodedSentences:
    """Makes model inputs: [CLS] pieces [SEP], padded.

    Args:
        tokens: of each sentence. A token of which the tokenizer leaves
            nothing (an invisible character) is [UNK].
        tags: of each token, all of them in `tag_names`; or None.
        tokenizer: splits tokens into pieces.
        max_seq_length: columns, [CLS] and [SEP] included, at least 8.
        tag_names: the classes in their order.
    """
    room = max_seq_length - NUM_SPECIAL
    pieces, lengths = _pieces(tokenizer, [t for some in tokens for t in some])
    starts = np.cumsum(lengths) - lengths
    kept = np.minimum(lengths, room)
    windows, num_divided, first = [], 0, 0
    for some in tokens:
        last = first + len(some)
        found = list(_windows(kept[first:last], room))
        windows += [_Window(*(first + place for place in w)) for w in found]
        num_divided += len(found) > 1
        first = last
    shape = (len(windows), max_seq_length)
    arrays = {
        "input_ids": np.full(shape, tokenizer.pad_id, np.int32),
        "input_mask": np.zeros(shape, np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "label_weights": np.zeros(shape, np.int32),
    }
    arrays["input_ids"][:, 0] = tokenizer.cls_id
    if tags is not None:
        index_of = {name: index for index, name in enumerate(tag_names)}
        labels = [index_of[tag] for some in tags for tag in some]
        labels = np.asarray(labels, np.int32)
        arrays["labels"] = np.zeros(shape, np.int32)
    for row, window in enumerate(windows):
        of_window = slice(window.first, window.last)
        columns = 1 + np.cumsum(kept[of_window]) - kept[of_window]
        place = _ranges(starts[of_window], kept[of_window])
        end = 1 + len(place)
        arrays["input_ids"][row, 1:end] = pieces[place]
        arrays["input_ids"][row, end] = tokenizer.sep_id
        arrays["input_mask"][row, : end + 1] = 1
        own = slice(window.own_first, window.own_last)
        columns = columns[own.start - window.first : own.stop - window.first]
        arrays["label_weights"][row, columns] = 1
        if tags is not None:
            arrays["labels"][row, columns] = labels[own]
    return EncodedSentences(arrays, num_divided, int(np.sum(lengths > room)))


def by_sentence(
    values: Sequence, tokens: Sequence[Sequence[str]]
) -> list[Sequence]:
    """Cuts what there is of each token, all in a row, into sentences."""
    ends = np.cumsum([0, *map(len, tokens)]).tolist()
    return [values[a:b] for a, b in zip(ends, ends[1:], strict=False)]


def _windows(lengths: np.ndarray, room: int) -> Iterator[_Window]:
    """Windows of a sentence whose tokens have so many pieces, at most `room`.

    Every token is predicted in exactly one of them, in order.
    """
    ends = np.cumsum(lengths)  # Pieces up to and with each token.
    starts = ends - lengths
    number, context = len(lengths), room // _CONTEXT
    first = own_first = 0
    while True:
        last = int(np.searchsorted(ends, starts[first] + room, "right"))
        if last == number:
            # Nothing follows, so there is room for more before.
            first = int(np.searchsorted(starts, ends[-1] - room))
            yield _Window(first, own_first, number, number)
            return
        # The first token behind which there is less than the context.
        own_last = int(np.searchsorted(ends, ends[last - 1] - context, "right"))
        own_last = max(own_last, own_first + 1)
        yield _Window(first, own_first, own_last, last)
        own_first = own_last
        least = max(starts[own_first] - context, ends[own_first] - room)
        first = int(np.searchsorted(starts, least))


def _pieces(
    tokenizer: WordpieceTokenizer, tokens: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the pieces of all tokens in a row, and each one's number."""
    different = list(dict.fromkeys(tokens))
    number_of = {token: number for number, token in enumerate(different)}
    ragged = tokenizer.tokenize(different)
    splits = ragged.row_splits.numpy().astype(np.int64)
    # One [UNK] at the end, for tokens of no piece.
    ids = np.append(ragged.values.numpy(), np.int32(tokenizer.unk_id))
    lengths, starts = np.diff(splits), splits[:-1].copy()
    starts[lengths == 0] = len(ids) - 1
    lengths = np.maximum(lengths, 1)
    index = np.asarray([number_of[token] for token in tokens], np.int64)
    return ids[_ranges(starts[index], lengths[index])], lengths[index]


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers from each start on, so many of each, all in a row."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


Arrays = dict[str, np.ndarray]


def token_classification_loss(
    model: MobileBertForTokenClassification,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """Returns a function from a batch of `encode_sentences` to `loss`.

    That is the mean cross-entropy over the tokens of the batch, in nats, each
    at its first piece.
    """

    def compute_loss(batch):
        return {"loss": token_loss(model(batch, training=True), batch)}

    return compute_loss


def token_loss(logits, batch):
    """The loss of logits [B, width, C], as `token_classification_loss`."""
    # Predicting the labels of some positions is all that masked LM is.
    return masked_lm_loss(
        at_all_labels(logits, batch), batch["labels"], batch["label_weights"]
    )


def at_all_labels(values, batch):
    """Fills values [B, width, C] up with zeros, to where labels end.

    Inputs were cut to the width of their bucket, labels were not. Weights must
    stay as they came (see `TrainStep`), so that it is the values that
    grow: nothing is weighed where they do.
    """
    missing = ops.shape(batch["labels"])[1] - ops.shape(values)[1]
    return ops.pad(values, ((0, 0), (0, missing), (0, 0)))


class TokenPredictor:
    """Runs a tagger over sentences, in batches of a few widths.

    Traced once: it may be called again while the model is trained.

    Args:
        model: the tagger.
        batch_size: windows at once.
        bucket_lengths: widths of batches.
    """

    def __init__(
        self,
        model: MobileBertForTokenClassification,
        batch_size: int,
        bucket_lengths: Sequence[int] = BUCKET_LENGTHS,
    ):
        self._batch_size = batch_size
        self._bucket_lengths = bucket_lengths
        self._num_labels = len(model.label_names)
        self._step = inference_step(model, batch_size)

    def __call__(self, arrays: Arrays) -> np.ndarray:
        """Returns logits, float32 [number of tokens, C], in their order."""
        inputs = {name: arrays[name] for name in INPUTS}
        is_token = arrays["label_weights"] > 0
        number = np.cumsum(is_token).reshape(is_token.shape) - 1
        logits = np.zeros((is_token.sum(), self._num_labels), np.float32)
        for rows, batch in evaluation_batches(
            inputs, self._batch_size, self._bucket_lengths
        ):
            outputs = self._step(batch)[: len(rows)]
            width = outputs.shape[1]
            here = is_token[rows, :width]
            logits[number[rows, :width][here]] = outputs[here]
        return logits


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


@dataclasses.dataclass(frozen=True)
class TaggingOptions(Options):
    """Which sentences a tagger learns from, and how their files are read."""

    group: ClassVar[str] = "data"

    train_file: str | None = option(
        None, "Sentences to train on, in columns.", everyday=True
    )
    dev_file: str | None = option(
        None, "Sentences to choose the best weights by.", everyday=True
    )
    test_file: str | None = option(
        None, "Sentences to score the result on.", everyday=True
    )
    predict_file: str | None = option(
        None,
        "Sentences to tag; only their tokens are read.",
        everyday=True,
        resumable=True,
    )
    token_column: int = option(
        1, "Column of the token: 1 is the first, -1 the last."
    )
    tag_column: int = option(-1, "Column of the tag.")
    scheme: str | None = option(
        None,
        "How tags mark entities; none: they mark no entities. Default: as the "
        "tags of the training file do.",
        choices=SCHEMES,
    )
    max_train_examples: int | None = option(
        None, "Train on this many sentences only, the first ones.", min=1
    )
    max_seq_length: int = option(
        128,
        "Longest window, in word pieces; a longer sentence becomes several.",
        min=8,
        everyday=True,
    )


class FoundEntity(NamedTuple):
    """A stretch of a text that a tagger found.

    Attributes:
        kind: its type, such as PER; the tag, if tags mark no entities.
        text: as it stands in the text.
        start: its first character.
        end: the character after its last one.
        probability: the smallest of its tokens' tags.
    """

    kind: str
    text: str
    start: int
    end: int
    probability: float


class TaggingTask(Task):
    """Tags the tokens of sentences; tags may mark entities.

    Splits also have `label_weights` int32 [N, S], 1 at the first piece of each
    token, where its label and its prediction are. A token has these in one
    window only.

    Args:
        label_names: the tags, in the order of the logits.
        sentences: by split: `train`, `dev`, `test` and `predict`.
        tokenizer: the model's.
        max_seq_length: S.
        scheme: one of `SCHEMES`; None if no tags were read.
    """

    model_class_name = "MobileBertForTokenClassification"
    title = "Tagger"

    def __init__(
        self,
        label_names: tuple[str, ...],
        sentences: Mapping[str, Sentences],
        tokenizer: WordpieceTokenizer,
        max_seq_length: int,
        scheme: str | None = None,
    ):
        self.label_names = label_names
        self.sentences = dict(sentences)
        self.scheme = scheme
        self.chosen_by = ("accuracy",) if scheme == NO_SCHEME else ("f1",)
        self._tokenizer = tokenizer
        self._max_seq_length = max_seq_length
        self.splits, self._is_token, self._descriptions = {}, {}, {}
        for split, some in self.sentences.items():
            encoded = encode_sentences(
                some.tokens, some.tags, tokenizer, max_seq_length, label_names
            )
            arrays = encoded.arrays
            self._is_token[split] = arrays["label_weights"] > 0
            if some.tags is None:
                del arrays["label_weights"]
            self.splits[split] = arrays
            self._descriptions[split] = _description(some, encoded)

    @classmethod
    def read(cls, options, tokenizer, folder, actions):
        """See `Task.read`; `options` are `TaggingOptions`."""
        known = None
        if model_architecture(folder) == cls.model_class_name:
            known = saved_label_names(folder)
        elif not actions.train:
            raise InputError(folder, "a tagger", "another kind of model")
        check_max_seq_length(folder, options.max_seq_length)
        sentences = _read_splits(options, actions)
        if actions.train and "train" not in sentences:
            raise InputError("--train_file", "a file, or --nodo_train", "none")
        scheme = options.scheme
        tagged = [some for some in sentences.values() if some.tags is not None]
        for some in tagged:
            scheme = scheme or recognise_scheme(some)
            check_scheme(some, scheme)
        names = known
        if actions.train:
            names = _tags_to_learn(sentences["train"], known)
        for some in tagged:
            some.check_known(names)
        if options.max_train_examples and "train" in sentences:
            number = options.max_train_examples
            sentences["train"] = sentences["train"].first(number)
        task = cls(names, sentences, tokenizer, options.max_seq_length, scheme)
        for split, description in task._descriptions.items():
            print(f"{split}: {description}", flush=True)
        return task

    @classmethod
    def open(cls, folder, tokenizer):
        """See `Task.open`."""
        if model_architecture(folder) != cls.model_class_name:
            raise InputError(folder, "a tagger", "another kind of model")
        config = MobileBertConfig.from_json(Path(folder) / CONFIG_FILE)
        length = config.max_position_embeddings
        return cls(saved_label_names(folder), {}, tokenizer, length)

    @property
    def max_seq_length(self) -> int:
        """Length S of the examples."""
        return self._max_seq_length

    def of_length(self, max_seq_length):
        """See `Task.of_length`."""
        if max_seq_length == self._max_seq_length:
            return self
        return TaggingTask(
            self.label_names,
            self.sentences,
            self._tokenizer,
            max_seq_length,
            self.scheme,
        )

    def encode(self, texts, max_seq_length):
        """Encodes sentences, each a text or a list of tokens."""
        arrays = self._encode(texts, max_seq_length)
        return {name: arrays[name] for name in INPUTS}

    def _encode(self, texts, max_seq_length):
        sentences = list(filter(None, map(_tokens, texts)))
        return encode_sentences(
            sentences, None, self._tokenizer, max_seq_length
        ).arrays

    def loss(self, outputs, batch):
        """Mean cross-entropy over tokens, in nats."""
        from mobilebert_tf.modeling import losses

        return losses.token_loss(
            outputs, batch["labels"], batch["label_weights"]
        )

    def distillation_loss(self, outputs, teacher_outputs, batch, temperature):
        """Mean KL(teacher || student) over tokens, in nats."""
        from mobilebert_tf.modeling import losses

        divergence = losses.kl_divergence(outputs, teacher_outputs, temperature)
        divergence = losses.pad_to(divergence, batch["labels"])
        return losses.weighted_mean(divergence, batch["label_weights"])

    def metrics(self, outputs, split):
        """Entity precision, recall, F1 and accuracy; or accuracy alone."""
        return self._scores(split, self._predicted(outputs, split))

    def tags(
        self, outputs, sentences: Sequence[str | Sequence[str]]
    ) -> tuple[list[list[str]], list[list[float]]]:
        """Returns the likeliest tag of each token, and its probability.

        Args:
            outputs: for what `encode` returned for `sentences`.
            sentences: texts or lists of tokens.
        """
        length = outputs.shape[1]
        is_token = self._encode(sentences, length)["label_weights"] > 0
        logits = outputs[is_token].astype(np.float64)
        probs = scipy.special.softmax(logits, axis=-1)
        tags = [self.label_names[index] for index in probs.argmax(axis=-1)]
        tokens = list(map(_tokens, sentences))
        return (
            by_sentence(tags, tokens),
            by_sentence(probs.max(axis=-1).tolist(), tokens),
        )

    def answers(self, outputs, texts) -> list[list[FoundEntity]]:
        """Returns the entities of each text."""
        return [
            list(_found(text, *row))
            for text, *row in zip(
                texts, *self.tags(outputs, texts), strict=True
            )
        ]

    def write(self, outputs, split, folder):
        """Writes `SPLIT_predictions.conll`: token, tag, predicted tag.

        Without tags, `predictions.conll`: token, predicted tag. Prints scores
        by type, and those of tagging each token as it usually is in `train`.
        """
        sentences = self.sentences[split]
        tags = self._predicted(outputs, split)
        is_labelled = sentences.tags is not None
        name = f"{split}_" if is_labelled else ""
        columns = [sentences.tags, tags] if is_labelled else [tags]
        path = Path(folder) / f"{name}predictions.conll"
        write_tags(path, sentences.tokens, *columns)
        print(f"Wrote {path}", flush=True)
        if is_labelled:
            print("\n".join(self._table(split, tags)), flush=True)

    def notes(self):
        """See `Task.notes`."""
        notes = {"Tags": ", ".join(self.label_names)}
        if self.scheme:
            notes["Scheme"] = self.scheme
        return notes | {
            f"Sentences, {split}": f"{len(some):,}"
            for split, some in self.sentences.items()
        }

    def _predicted(self, outputs, split: str) -> list[list[str]]:
        """The likeliest tag of each token, by sentence."""
        logits = outputs[self._is_token[split]]
        tags = [self.label_names[index] for index in logits.argmax(axis=-1)]
        return by_sentence(tags, self.sentences[split].tokens)

    def _scores(self, split: str, tags: list[list[str]]) -> dict[str, float]:
        right = self.sentences[split].tags
        if self.scheme == NO_SCHEME:
            return {"accuracy": accuracy(right, tags)}
        return entity_metrics(right, tags)

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
            scores = _percent(self._scores(split, usual))
            lines.append(f"{split}, each token's usual tag: {scores}")
        return lines


def _read_splits(
    options: TaggingOptions, actions: Actions
) -> dict[str, Sentences]:
    """Reads the splits that actions need; without any file the built-in."""
    needed = {
        "train": actions.train or actions.calibrate,
        # Training chooses the best weights by it.
        "dev": actions.evaluate or actions.train,
        "test": actions.evaluate,
        "predict": actions.predict,
    }
    files = {split: getattr(options, f"{split}_file") for split in needed}
    if not any(files.values()):
        return {
            split: Sentences(
                f"built-in {split} sentences",
                tokens,
                tags,
                # In a file of these sentences, a blank line after each.
                np.cumsum([1, *(len(row) + 1 for row in tokens[:-1])]).tolist(),
            )
            for split, (tokens, tags) in code_task().items()
            if needed[split]
        }
    return {
        split: read_sentences(
            path,
            options.token_column,
            options.tag_column,
            has_tags=split != "predict",
        )
        for split, path in files.items()
        if path and needed[split]
    }


def _tokens(sentence: str | Sequence[str]) -> Sequence[str]:
    return split_words(sentence) if isinstance(sentence, str) else sentence


def _found(
    text: str, tags: list[str], probs: list[float]
) -> Iterator[FoundEntity]:
    """The entities of a text, with their places."""
    places, end = [], 0
    for token in split_words(text):
        start = text.index(token, end)
        end = start + len(token)
        places.append((start, end))
    for kind, first, last in entities(tags):
        start, end = places[first][0], places[last - 1][1]
        least = min(probs[first:last])
        yield FoundEntity(kind, text[start:end], start, end, least)


def _description(sentences: Sentences, encoded: EncodedSentences) -> str:
    """How many sentences, and what became of long ones."""
    note = f"{len(sentences):,} sentences, {sentences.num_tokens:,} tokens"
    if encoded.num_divided:
        number = len(encoded.arrays["input_ids"])
        note += f", {number:,} windows ({encoded.num_divided:,} sentences are "
        note += "longer)"
    if encoded.num_cut:
        note += f", {encoded.num_cut:,} tokens longer than a window cut"
    return note
