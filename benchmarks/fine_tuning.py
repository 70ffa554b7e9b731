r"""How much fine-tuning gains from batches of equal length.

    MOBILEBERT_TF_DATA=FOLDER python benchmarks/fine_tuning.py

with FOLDER/glue/SST-2/train.tsv and FOLDER/vocab/*.txt. Takes the first
batches of an epoch of SST-2 in the order in which `run_classifier.py` trains,
and trains full-size `mobilebert` on them step by step in three ways, in turn:

    bucketed    the batches as they are, cut to 16, 32, 64 or 128 columns
    padded      the same examples, every batch 128 columns wide
    peer        Hugging Face's PyTorch MobileBERT, the same examples in random
                batches, each padded to its longest (where it is installed)

Each way has its own weights, gradients of all of them, clipping and AdamW.
Every width is run once before it is timed, and its compilation is reported by
itself. Times are of the wall; on a machine that does other work, ratios of
neighbours in time say more than the times.

    python benchmarks/fine_tuning.py --model=FOLDER --num_steps=2104 \
        --batch_size=32 --learning_rate=1e-3

starts from a model folder instead, with its vocabulary, and trains a whole
epoch; the first two ways then begin with the same weights, and their accuracy
on dev tells whether padding is worth anything.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import itertools  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from absl import app, flags  # noqa: E402

import mobilebert_tf as mb  # noqa: E402
from mobilebert_tf.config import INPUT_NAMES  # noqa: E402
from mobilebert_tf.data.batches import (
    bucketed_rows,  # noqa: E402
    mean_width,  # noqa: E402
    training_batches,  # noqa: E402
)
from mobilebert_tf.tasks.classification import ClassificationTask  # noqa: E402
from mobilebert_tf.tasks.glue import read_glue  # noqa: E402
from mobilebert_tf.tasks.labelled_texts import encode_examples  # noqa: E402
from mobilebert_tf.text.tokenizer import WordpieceTokenizer  # noqa: E402
from mobilebert_tf.training.fine_tuning import training_loss  # noqa: E402
from mobilebert_tf.training.inference import Predictor  # noqa: E402
from mobilebert_tf.training.optimizers import AdamW  # noqa: E402
from mobilebert_tf.training.step import TrainStep  # noqa: E402

FLAGS = flags.FLAGS
_DATA = os.environ.get("MOBILEBERT_TF_DATA", "data")

flags.DEFINE_string("data_dir", f"{_DATA}/glue", "Folder of SST-2/train.tsv.")
flags.DEFINE_string(
    "vocab_file", f"{_DATA}/vocab/bert-base-uncased-vocab.txt", "Vocabulary."
)
flags.DEFINE_string("preset", "mobilebert", "Architecture.")
flags.DEFINE_integer("num_steps", 12, "Steps to time.", 1)
flags.DEFINE_integer("batch_size", 16, "Examples a step.", 1)
flags.DEFINE_integer("max_seq_length", 128, "Width of padded batches.", 16)
flags.DEFINE_float("learning_rate", 3e-5, "Of all ways.", 0.0)
flags.DEFINE_string(
    "model", None, "Model folder to start from, in place of --preset."
)
flags.DEFINE_bool("peer", True, "Compare with transformers, if installed.")

LABELS = ("negative", "positive")
Batch = dict[str, np.ndarray]


def sst2(split: str) -> Batch:
    """All examples of a split, encoded."""
    if FLAGS.model:
        tokenizer = WordpieceTokenizer.from_folder(FLAGS.model)
    else:
        tokenizer = WordpieceTokenizer.from_vocab_file(FLAGS.vocab_file)
    examples = read_glue("sst2", FLAGS.data_dir, [split])[split]
    return encode_examples(examples, tokenizer, FLAGS.max_seq_length, LABELS)


def widened(batch: Batch, width: int) -> Batch:
    """A batch with columns of padding added."""
    missing = width - batch["input_ids"].shape[1]
    return {
        name: np.pad(array, ((0, 0), (0, missing)))
        if name in INPUT_NAMES
        else array
        for name, array in batch.items()
    }


def random_batches(batches: list[Batch]) -> list[Batch]:
    """The same examples in another order, each batch as wide as it must be."""
    wide = [widened(batch, FLAGS.max_seq_length) for batch in batches]
    joined = {
        name: np.concatenate([batch[name] for batch in wide])
        for name in wide[0]
    }
    order = np.random.default_rng(0).permutation(len(joined["labels"]))
    mixed = []
    for rows in np.split(order, len(batches)):
        width = joined["input_mask"][rows].sum(axis=1).max()
        mixed.append(
            {
                name: array[rows, :width]
                if name in INPUT_NAMES
                else array[rows]
                for name, array in joined.items()
            }
        )
    return mixed


def our_model() -> mb.MobileBertForSequenceClassification:
    """Builds a classifier, the same at each call."""
    keras.utils.set_random_seed(1)
    if FLAGS.model:
        return ClassificationTask(LABELS).build(FLAGS.model)
    config = mb.MobileBertConfig.from_preset(FLAGS.preset)
    return mb.MobileBertForSequenceClassification(config, LABELS)


def our_step(
    model: mb.MobileBertForSequenceClassification,
) -> Callable[[Batch], float]:
    """Returns the step of a model."""
    optimizer = AdamW(
        FLAGS.learning_rate,
        decay_rate=0.01,
        global_clipnorm=1.0,
        bias_correction=True,
    )
    step = TrainStep(
        training_loss(ClassificationTask(LABELS), model),
        model.trainable_variables,
        optimizer,
    )

    def run(batch: Batch) -> float:
        tensors = {name: tf.constant(batch[name]) for name in batch}
        return float(step(tensors)["loss"])

    return run


def peer_step() -> Callable[[Batch], float]:
    """Builds Hugging Face's model and returns its step."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = transformers.MobileBertConfig(num_labels=len(LABELS))
    model = transformers.MobileBertForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=FLAGS.learning_rate, weight_decay=0.01
    )

    def run(batch: Batch) -> float:
        tensors = {
            name: torch.from_numpy(array.astype(np.int64))
            for name, array in batch.items()
        }
        loss = model(
            input_ids=tensors["input_ids"],
            attention_mask=tensors["input_mask"],
            token_type_ids=tensors["segment_ids"],
            labels=tensors["labels"],
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return run


def warm_up(step: Callable, batches: list[Batch], name: str) -> None:
    """Takes a step of each batch."""
    for batch in batches:
        start = time.perf_counter()
        step(batch)
        seconds = time.perf_counter() - start
        width = batch["input_ids"].shape[1]
        print(f"{name}: a first step of width {width}: {seconds:.1f} s")


def installed_peer() -> bool:
    """Whether the comparison can be made."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        return False
    return FLAGS.peer


def report(seconds: dict[str, list[float]], widths: dict[str, float]) -> None:
    """Prints a row for each way, and what the first gains on it."""
    examples = FLAGS.num_steps * FLAGS.batch_size
    bucketed = sum(seconds["bucketed"])
    print(f"\n{FLAGS.num_steps} steps of {FLAGS.batch_size} examples")
    print("            width  median s/step  examples/s  times bucketed's")
    for name, values in seconds.items():
        total, median = sum(values), statistics.median(values)
        print(
            f"{name:<10}  {widths[name]:5.1f}  {median:13.2f}"
            f"  {examples / total:10.1f}  {total / bucketed:16.2f}"
        )


def report_accuracy(
    models: dict[str, mb.MobileBertForSequenceClassification],
) -> None:
    """Prints what each way has learned."""
    dev = sst2("dev")
    print()
    for name, model in models.items():
        logits = Predictor(model, 32)(dev)
        accuracy = (logits.argmax(axis=-1) == dev["labels"]).mean()
        print(f"{name:<10}  dev accuracy {accuracy:.1%}")


def main(_) -> None:
    """Reads, warms up, takes steps in turn, prints."""
    arrays = sst2("train")
    endless = training_batches(arrays, batch_size=FLAGS.batch_size, seed=1)
    batches = list(itertools.islice(endless, FLAGS.num_steps))
    shares = [
        f"{len(rows) / len(arrays['labels']):.1%} at {width}"
        for width, rows in bucketed_rows(arrays)
    ]
    print(f"SST-2: mean width {mean_width(arrays):.1f}; {', '.join(shares)}")
    models = {name: our_model() for name in ("bucketed", "padded")}
    ways = {
        "bucketed": (our_step(models["bucketed"]), batches),
        "padded": (
            our_step(models["padded"]),
            [widened(batch, FLAGS.max_seq_length) for batch in batches],
        ),
    }
    if installed_peer() and not FLAGS.model:
        ways["peer"] = (peer_step(), random_batches(batches))
    # One batch of each width; the same examples for all, so that ways which
    # began alike go on alike.
    first = {b["input_ids"].shape[1]: i for i, b in enumerate(batches)}
    for name, (step, its_batches) in ways.items():
        warm_up(step, [its_batches[i] for i in first.values()], name)
    seconds = {name: [] for name in ways}
    for index in range(FLAGS.num_steps):
        for name, (step, its_batches) in ways.items():
            start = time.perf_counter()
            step(its_batches[index])
            seconds[name].append(time.perf_counter() - start)
    widths = {
        name: statistics.mean(b["input_ids"].shape[1] for b in its_batches)
        for name, (_, its_batches) in ways.items()
    }
    report(seconds, widths)
    if FLAGS.model:
        report_accuracy(models)


if __name__ == "__main__":
    app.run(main)
