"""Tagging: a label for every token of a sentence; labels may mark entities."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mobilebert_tf.config import inputs_of
from mobilebert_tf.data.builtin import code_task
from mobilebert_tf.errors import InputError
from mobilebert_tf.options import option
from mobilebert_tf.tasks.class_report import shares
from mobilebert_tf.tasks.conll import (
    NO_SCHEME,
    SCHEMES,
    Sentences,
    check_scheme,
    read_sentences,
    recognise_scheme,
    write_tags,
)
from mobilebert_tf.tasks.length import (
    USUAL_LENGTH,
    length_to_train,
    saved_length,
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
    TaskOptions,
    check_length,
    saved_label_names,
)
from mobilebert_tf.tasks.token_windows import (
    EncodedSentences,
    by_sentence,
    count_pieces,
    encode_sentences,
)
from mobilebert_tf.text.normalization import split_words
from mobilebert_tf.text.tokenizer import WordpieceTokenizer


@dataclasses.dataclass(frozen=True)
class TaggingOptions(TaskOptions):
    """Which sentences a tagger learns from, and how their files are read."""

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
        "Sentences to tag, one a line, or columns with one token a line.",
        everyday=True,
        resumable=True,
    )
    token_column: int | None = option(
        None,
        "Column of the token: 1 is the first, -1 the last. Default: 1; a "
        "--predict_file may also hold plain sentences, one a line.",
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
    max_seq_length: int | None = option(
        None,
        "Longest window, in word pieces, by default as many as 95 % of the "
        "training sentences need. A longer sentence becomes several. Without "
        "training: as the model was trained. The built-in task has 128.",
        min=8,
        everyday=True,
    )


class FoundEntity(NamedTuple):
    """An entity, `text[start:end]` of the text it was found in.

    `kind` is its type, such as PER; `probability` the smallest among its
    tokens' tags.
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
    floor_rule = "each token's usual tag"

    def __init__(
        self,
        label_names: tuple[str, ...],
        sentences: Mapping[str, Sentences],
        tokenizer: WordpieceTokenizer,
        max_seq_length: int = USUAL_LENGTH,
        scheme: str | None = None,
    ):
        self.label_names = label_names
        self.sentences = dict(sentences)
        self.scheme = scheme
        self.chosen_by = ("accuracy",) if scheme == NO_SCHEME else ("f1",)
        self._tokenizer = tokenizer
        self.encode_splits(max_seq_length)

    @classmethod
    def read(cls, options, tokenizer, folder, actions):
        known = None
        if not actions.train or cls.is_model_of(folder):
            cls.check_model(folder)
            known = saved_label_names(folder)
        check_length(folder, options.max_seq_length)
        sentences = _read_splits(options, actions)
        actions.check_training(sentences)
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
        if "train" in sentences:
            train = sentences["train"].first(options.max_train_examples)
            sentences["train"] = train
        length = options.max_seq_length
        if length is None and not actions.train:
            length = saved_length(folder)
        if length is None:
            counts = None
            if options.files:
                counts = count_pieces(train.tokens, tokenizer)
            length = length_to_train(folder, counts, "divided")
        return cls(names, sentences, tokenizer, length, scheme)

    @classmethod
    def open(cls, folder, tokenizer):
        cls.check_model(folder)
        return cls(saved_label_names(folder), {}, tokenizer)

    @property
    def max_seq_length(self):
        return self._max_seq_length

    def encode_splits(self, max_seq_length):
        self._max_seq_length = max_seq_length
        self.splits, self._is_token = {}, {}
        for split, some in self.sentences.items():
            encoded = encode_sentences(
                some.tokens,
                some.tags,
                self._tokenizer,
                max_seq_length,
                self.label_names,
            )
            note = _description(some, encoded)
            if some.tags is not None and split != "train":
                note += self.floor_note(split)
            print(f"{split}: {note}", flush=True)
            self.splits[split] = encoded.arrays
            self._is_token[split] = encoded.arrays["label_weights"] > 0
            if some.tags is None:
                del encoded.arrays["label_weights"]

    def encode(self, texts, max_seq_length):
        """Encodes sentences, each a text or a list of tokens."""
        return inputs_of(self._encode(texts, max_seq_length))

    def _encode(self, texts, max_seq_length):
        sentences = list(filter(None, map(_tokens, texts)))
        return encode_sentences(
            sentences, None, self._tokenizer, max_seq_length
        ).arrays

    def loss(self, outputs, batch):
        from mobilebert_tf.modeling import losses

        return losses.token_loss(
            outputs, batch["labels"], batch["label_weights"]
        )

    def distillation_loss(self, outputs, teacher_outputs, batch, temperature):
        from mobilebert_tf.modeling import losses

        divergence = losses.kl_divergence(outputs, teacher_outputs, temperature)
        divergence = losses.pad_to(divergence, batch["labels"])
        return losses.weighted_mean(divergence, batch["label_weights"])

    def metrics(self, outputs, split):
        """Entity precision, recall, F1 and accuracy; or accuracy alone."""
        return self._scores(split, self._predicted(outputs, split))

    def floor(self, split):
        """Scores tagging each token as it usually is in `train`."""
        if "train" not in self.sentences:
            return {}
        train, tokens = self.sentences["train"], self.sentences[split].tokens
        usual = most_frequent_tags(train.tokens, train.tags, tokens)
        return self._scores(split, usual)

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
        return self._tags(outputs[is_token], list(map(_tokens, sentences)))

    def _tags(self, logits, tokens):
        """Returns tags and probabilities by sentence, from logits by token."""
        from scipy.special import softmax

        probs = softmax(logits.astype(np.float64), axis=-1)
        tags = [self.label_names[index] for index in probs.argmax(axis=-1)]
        return (
            by_sentence(tags, tokens),
            by_sentence(probs.max(axis=-1).tolist(), tokens),
        )

    def answers(self, outputs, texts) -> list[list[FoundEntity]]:
        """Returns the entities of each text."""
        rows = zip(texts, *self.tags(outputs, texts), strict=True)
        return [list(_found(*row)) for row in rows]

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
        notes = {"Tags": ", ".join(self.label_names)}
        if self.scheme:
            notes["Scheme"] = self.scheme
        return notes | {
            f"Sentences, {split}": f"{len(some):,}"
            for split, some in self.sentences.items()
        }

    def _predicted(self, outputs, split: str) -> list[list[str]]:
        """Returns the likeliest tag of each token, by sentence."""
        logits = outputs[self._is_token[split]]
        return self._tags(logits, self.sentences[split].tokens)[0]

    def _scores(self, split: str, tags: list[list[str]]) -> dict[str, float]:
        right = self.sentences[split].tags
        if self.scheme == NO_SCHEME:
            return {"accuracy": accuracy(right, tags)}
        return entity_metrics(right, tags)

    def _table(self, split: str, tags: list[list[str]]) -> list[str]:
        """Returns scores by type and, as a baseline, of most frequent tags."""
        right = self.sentences[split].tags
        lines = []
        if self.scheme != NO_SCHEME:
            lines = [
                f"{split} {kind}: " + _percent(scores)
                for kind, scores in metrics_by_type(right, tags).items()
            ]
        found = {tag for sentence in tags for tag in sentence}
        if len(found) == 1:
            lines.append(
                f"warning: every {split} token is tagged {found.pop()}"
            )
        floor = self.floor(split)
        if floor:
            lines.append(f"{split}, each token's usual tag: {_percent(floor)}")
        return lines


def _read_splits(
    options: TaggingOptions, actions: Actions
) -> dict[str, Sentences]:
    """Reads the splits that actions need; without any file the built-in."""
    if options.files:
        return {
            split: read_sentences(
                path,
                options.token_column,
                options.tag_column,
                has_tags=split != "predict",
                encoding=options.encoding,
            )
            for split, path in options.files.items()
            if split in actions.splits
        }
    return {
        split: Sentences(
            f"built-in {split} sentences", tokens, tags, _lines(tokens)
        )
        for split, (tokens, tags) in code_task().items()
        if split in actions.splits
    }


def _lines(tokens: Sequence[Sequence[str]]) -> list[list[int]]:
    """Numbers the lines of sentences with a blank line after each."""
    counter = itertools.count(1)
    lines = [[next(counter) for _ in [*row, ""]] for row in tokens]
    return [row[:-1] for row in lines]


def _tags_to_learn(
    train: Sentences, known: tuple[str, ...] | None
) -> tuple[str, ...]:
    names = train.tag_names
    if len(names) < 2:
        expected = "at least two different tags"
        raise InputError(train.path, expected, ", ".join(names))
    # A tagger that is trained further keeps its tags, in their order.
    return known if known and set(names) <= set(known) else names


def _tokens(sentence: str | Sequence[str]) -> Sequence[str]:
    return split_words(sentence) if isinstance(sentence, str) else sentence


def _found(
    text: str, tags: list[str], probs: list[float]
) -> Iterator[FoundEntity]:
    """Yields the entities of a text, with their places."""
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
    """Returns how many sentences there are, and what became of long ones."""
    note = f"{len(sentences):,} sentences, {sentences.num_tokens:,} tokens"
    if sentences.tags is not None:
        counts = Counter(tag for tags in sentences.tags for tag in tags)
        note += f" ({shares(counts, sentences.num_tokens)})"
    if encoded.num_divided:
        number = len(encoded.arrays["input_ids"])
        divided = f"{encoded.num_divided:,} sentences are longer"
        note += f", {number:,} windows ({divided})"
    if encoded.num_cut:
        note += f", {encoded.num_cut:,} tokens longer than a window cut"
    if sentences.tags is None:
        note += f"; read as {sentences.form}"
    return note


def _percent(scores: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {100 * scores[name]:.2f}" for name in scores)
