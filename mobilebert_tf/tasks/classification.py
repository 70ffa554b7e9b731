"""Classification of texts or pairs: one label, several labels, or a number.

Logits are [N, C]. With one label they become probabilities by a softmax, with
several labels each by a sigmoid, and a regression's single column is its value.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from mobilebert_tf.config import read_json_object
from mobilebert_tf.errors import InputError, listed
from mobilebert_tf.tasks.class_report import (
    class_table,
    confusion_matrix,
    confusion_table,
    draw_confusion,
    shares,
    threshold_table,
)
from mobilebert_tf.tasks.classification_examples import (
    FOCAL,
    class_weights,
    read_splits,
)
from mobilebert_tf.tasks.glue import GLUE_TASKS, write_submission
from mobilebert_tf.tasks.labelled_texts import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    Examples,
    count_pieces,
    encode_examples,
    names_of,
)
from mobilebert_tf.tasks.length import length_to_train, saved_length
from mobilebert_tf.tasks.metrics import (
    classification_metrics,
    largest_class_floor,
    most_frequent_labels_floor,
    multi_label_metrics,
    regression_metrics,
)
from mobilebert_tf.tasks.predictions import Answer, write_predictions
from mobilebert_tf.tasks.task import (
    CONFIG_FILE,
    Arrays,
    Hyperparameters,
    Task,
    add_to_config,
    check_length,
    saved_label_names,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

PROBLEM_TYPE = "problem_type"

# Name of the single output of a regression.
REGRESSION_LABELS = ("value",)

# F1 and Matthews are reported for single labels, but do not rank models.
_CHOSEN_BY = {
    SINGLE_LABEL: ("accuracy",),
    MULTI_LABEL: ("micro_f1",),
    REGRESSION: ("pearson", "spearman"),
}


@dataclasses.dataclass(eq=False)
class ClassificationTask(Task):
    """A classifier's or a regression's task.

    Attributes:
        label_names: one name for a regression.
        splits: see `Task`; `labels` are int32 [N], float32 [N] of a regression
            or float32 [N, C] of 0 and 1 for several labels.
        problem_type: `SINGLE_LABEL`, `MULTI_LABEL` or `REGRESSION`.
        glue_name: of `GLUE_TASKS`, or None.
        label_separator: separates several labels in a cell.
        tokenizer: encodes texts.
        examples: the texts of `splits`.
        class_weights: factors of the classes in the loss, in their order.
        focal_gamma: see `losses.classification_loss`.
        wanted: `precision` or `recall` that thresholds are to reach.
    """

    model_class_name: ClassVar[str] = "MobileBertForSequenceClassification"
    title: ClassVar[str] = "Text classifier"

    label_names: tuple[str, ...] = dataclasses.field()
    splits: dict[str, Arrays] = dataclasses.field(default_factory=dict)
    problem_type: str = SINGLE_LABEL
    glue_name: str | None = None
    label_separator: str = ","
    tokenizer: WordpieceTokenizer | None = None
    examples: Mapping[str, Examples] = dataclasses.field(default_factory=dict)
    class_weights: tuple[float, ...] | None = None
    focal_gamma: float = 0.0
    wanted: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, options, tokenizer, folder, actions):
        check_length(folder, options.max_seq_length)
        problem_type, names = options.problem_type, None
        if not actions.train:
            # Without training only the model's own classes can be judged.
            saved = cls.open(folder, tokenizer)
            problem_type, names = saved.problem_type, saved.label_names
        glue_task = GLUE_TASKS.get(options.task)
        if glue_task:
            wanted = glue_task.label_names or REGRESSION_LABELS
            if names not in (None, wanted):
                expected = f"the classes of {options.task}: {', '.join(wanted)}"
                raise InputError(folder, expected, ", ".join(names))
            names, problem_type = wanted, glue_task.problem_type
        examples = read_splits(options, problem_type, names, actions)
        actions.check_training(examples)
        names = names or _labels_to_learn(examples["train"], problem_type)
        if "train" in examples:
            train = examples["train"].first(options.max_train_examples)
            examples["train"] = train
        task = cls(
            names,
            problem_type=problem_type,
            glue_name=options.task if glue_task else None,
            label_separator=options.label_separator,
            tokenizer=tokenizer,
            examples=examples,
            focal_gamma=options.focal_gamma * (options.loss == FOCAL),
            wanted=options.wanted,
        )
        if "train" in examples:
            task.class_weights = class_weights(
                options.class_weights, names, examples["train"].labels
            )
        length = options.max_seq_length
        if length is None and not actions.train:
            length = saved_length(folder)
        if length is None:
            counts = count_pieces(train, tokenizer) if options.files else None
            length = length_to_train(folder, counts, "cut")
        task.encode_splits(length)
        for split in examples:
            print("\n".join(task._introduction(split)), flush=True)
        return task

    @classmethod
    def open(cls, folder, tokenizer):
        cls.check_model(folder)
        names = saved_label_names(folder)
        usual = REGRESSION if len(names) == 1 else SINGLE_LABEL
        saved = read_json_object(Path(folder) / CONFIG_FILE).get(PROBLEM_TYPE)
        return cls(names, problem_type=saved or usual, tokenizer=tokenizer)

    @property
    def chosen_by(self):
        glue_task = GLUE_TASKS.get(self.glue_name)
        return glue_task.metrics if glue_task else _CHOSEN_BY[self.problem_type]

    @property
    def hyperparameters(self):
        glue_task = GLUE_TASKS.get(self.glue_name)
        return glue_task.hyperparameters if glue_task else Hyperparameters()

    def encode_splits(self, max_seq_length):
        names = None if self.problem_type == REGRESSION else self.label_names
        self.splits = {
            split: encode_examples(texts, self.tokenizer, max_seq_length, names)
            for split, texts in self.examples.items()
        }

    def encode(self, texts, max_seq_length):
        """Encodes texts, or pairs as tuples."""
        first, second = list(texts), None
        if isinstance(first[0], tuple):
            first, second = (list(part) for part in zip(*texts, strict=True))
        return encode_examples(
            Examples(first, second), self.tokenizer, max_seq_length
        )

    def loss(self, outputs, batch):
        from mobilebert_tf.modeling import losses

        labels = batch["labels"]
        if self.problem_type == REGRESSION:
            return losses.regression_loss(outputs, labels)
        loss = losses.classification_loss
        if self.problem_type == MULTI_LABEL:
            loss = losses.multi_label_loss
        return loss(outputs, labels, self.class_weights, self.focal_gamma)

    def distillation_loss(self, outputs, teacher_outputs, batch, temperature):
        from keras import ops

        from mobilebert_tf.modeling import losses

        if self.problem_type == REGRESSION:
            return losses.mean(ops.square(outputs - teacher_outputs))
        if self.problem_type == MULTI_LABEL:
            # For each class a choice between yes and no.
            outputs, teacher_outputs = (
                ops.stack([logits, ops.zeros_like(logits)], axis=-1)
                for logits in (outputs, teacher_outputs)
            )
        return losses.mean(
            losses.kl_divergence(outputs, teacher_outputs, temperature)
        )

    def metrics(self, outputs, split):
        labels, predictions = self.splits[split]["labels"], self.decide(outputs)
        if self.problem_type == MULTI_LABEL:
            return multi_label_metrics(labels, predictions)
        if self.problem_type == REGRESSION:
            values = regression_metrics(labels, predictions)
        else:
            values = classification_metrics(
                labels, predictions, len(self.label_names)
            )
        return self._official(values)

    def _official(self, metrics: dict[str, float]) -> dict[str, float]:
        names = self.chosen_by if self.glue_name else metrics
        return {name: metrics[name] for name in names}

    @property
    def floor_rule(self):
        return {
            SINGLE_LABEL: "always naming the largest class",
            MULTI_LABEL: "always naming the most frequent labels",
            REGRESSION: "always the median",
        }[self.problem_type]

    def floor(self, split):
        labels = self.splits[split]["labels"]
        if self.problem_type == MULTI_LABEL:
            return most_frequent_labels_floor(labels)
        if self.problem_type == REGRESSION:
            median = np.full_like(labels, np.median(labels))
            return self._official(regression_metrics(labels, median))
        floor = largest_class_floor(labels, len(self.label_names))
        return self._official(floor)

    def _introduction(self, split: str) -> Iterator[str]:
        """Yields size, classes and floor of a split, and what is odd in it."""
        examples = self.examples[split]
        line = _size(self.glue_name, split, len(examples))
        missing = []
        if examples.labels and self.problem_type == REGRESSION:
            low, median, high = np.quantile(examples.labels, [0, 0.5, 1])
            line += f" ({low:g} to {high:g}, median {median:g})"
        elif examples.labels:
            counts = Counter(names_of(examples.labels))
            line += f" ({shares(counts, len(examples))})"
            missing = [name for name in self.label_names if not counts[name]]
        if examples.labels and split != "train":
            line += self.floor_note(split)
        yield line
        yield from (f"  {note}" for note in examples.notes)
        if missing:
            yield f"warning: {split} has no example of {listed(missing)}"

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Converts logits to probabilities, [N, C]; a regression's stay."""
        import scipy.special

        outputs = outputs.astype(np.float64)
        if self.problem_type == MULTI_LABEL:
            return scipy.special.expit(outputs)
        if self.problem_type == REGRESSION:
            return outputs
        return scipy.special.softmax(outputs, axis=-1)

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """Converts logits [N, C] to decisions.

        Class indices [N]; numbers [N] of a regression; 0 or 1 for each of
        several labels, [N, C], 1 from a probability of a half.
        """
        if self.problem_type == MULTI_LABEL:
            return (outputs >= 0).astype(np.int32)
        if self.problem_type == REGRESSION:
            return outputs[:, 0]
        return np.argmax(outputs, axis=-1)

    def answers(self, outputs, texts) -> list[Answer]:
        return [
            self._answer(choice, row)
            for choice, row in zip(
                self.decide(outputs).tolist(),
                self.probabilities(outputs).tolist(),
                strict=True,
            )
        ]

    def _answer(self, choice, row: list[float]) -> Answer:
        if self.problem_type == REGRESSION:
            return Answer(choice, {})
        by_name = dict(zip(self.label_names, row, strict=True))
        if self.problem_type == MULTI_LABEL:
            chosen = zip(self.label_names, choice, strict=True)
            return Answer(tuple(name for name, yes in chosen if yes), by_name)
        return Answer(self.label_names[choice], by_name)

    def write(self, outputs, split, folder):
        """Writes `predictions.tsv`, or the submission file of a GLUE task.

        Of a labelled split it prints tables by class and, with one label, draws
        `SPLIT_confusion.png`.
        """
        if "labels" in self.splits[split]:
            self._report(outputs, split, folder)
            return
        if self.glue_name:
            predictions = self.decide(outputs)
            path = write_submission(folder, self.glue_name, split, predictions)
        else:
            path = Path(folder) / "predictions.tsv"
            answers = self.answers(outputs, ())
            texts = self.examples.get(split)
            write_predictions(path, answers, self.label_separator, texts)
        print(f"Wrote {path}", flush=True)

    def _report(self, outputs, split, folder):
        if self.problem_type == REGRESSION:
            return
        labels, decisions = self.splits[split]["labels"], self.decide(outputs)
        names, marks = self.label_names, labels
        lines = class_table(labels, decisions, names)
        named = decisions.reshape(len(labels), -1)
        if len(labels) > 1 and (named == named[0]).all():
            lines.append(
                f"warning: the same answer to all {len(labels):,} {split} "
                "examples (--class_weights=balanced may help)"
            )
        if self.problem_type == SINGLE_LABEL:
            matrix = confusion_matrix(labels, decisions, names)
            draw_confusion(
                Path(folder) / f"{split}_confusion.png", matrix, names
            )
            lines += ["", *confusion_table(matrix, names)]
            marks = np.eye(len(names))[labels]
        if self.wanted:
            probs = self.probabilities(outputs)
            table = threshold_table(marks, probs, names, **self.wanted)
            words = " ".join(f"{n} {v:g}" for n, v in self.wanted.items())
            lines += ["", f"thresholds for {words}:", *table]
        print("\n".join([f"{split}, by class:", *lines, ""]), flush=True)

    def file_options(self, tokenizer):
        if tokenizer is None:
            return {}
        if self.problem_type == REGRESSION:
            raise InputError("--metadata", "a classifier", "a regression")
        if any(arrays["segment_ids"].any() for arrays in self.splits.values()):
            expected = "a classifier of single texts"
            raise InputError("--metadata", expected, "pairs")
        output = "probabilities"
        if self.problem_type == MULTI_LABEL:
            output = "independent_probabilities"
        metadata = {
            "vocabulary": tokenizer.vocab,
            "label_names": self.label_names,
        }
        return {"metadata": metadata, "output": output}

    def notes(self):
        notes = {
            "Classes": ", ".join(self.label_names),
            "Training examples": f"{self.num_train_examples}",
        }
        if self.class_weights:
            weights = zip(self.label_names, self.class_weights, strict=True)
            shown = ", ".join(f"{name} {value:.3g}" for name, value in weights)
            notes["Class weights"] = shown
        if self.focal_gamma:
            notes["Loss"] = f"focal, gamma {self.focal_gamma:g}"
        return notes

    def save(self, folder):
        super().save(folder)
        add_to_config(folder, {PROBLEM_TYPE: self.problem_type})


def _labels_to_learn(train: Examples, problem_type: str) -> tuple[str, ...]:
    if problem_type == REGRESSION:
        return REGRESSION_LABELS
    names = train.label_names
    least = 1 if problem_type == MULTI_LABEL else 2
    if len(names) < least:
        raise InputError(
            "training examples",
            f"at least {least} different labels",
            ", ".join(names) or "none",
        )
    return names


def _size(name: str | None, split: str, num_examples: int) -> str:
    """Words how many examples a split has, and how many GLUE's file has."""
    note = f"{split}: {num_examples:,} examples"
    if name in GLUE_TASKS:
        official = GLUE_TASKS[name].splits[split].num_examples
        if num_examples != official:
            note += f" (the official file has {official:,})"
    return note
