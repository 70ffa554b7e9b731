r"""How much fine-tuning gains from batches of equal length.

    MOBILEBERT_TF_DATA=FOLDER python -m benchmarks.fine_tuning

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
The smallest run: `--preset=mobilebert_small --num_steps=2`.
"""

import dataclasses
import importlib.util
import itertools
import os
import statistics
import time
from collections.abc import Callable

import keras
import numpy as np

import mobilebert_tf as mb
from benchmarks.instruments import DATA, VOCABULARY, interleaved, start
from mobilebert_tf.config import INPUT_NAMES
from mobilebert_tf.data.batches import bucketed_rows, training_batches
from mobilebert_tf.options import Options, option
from mobilebert_tf.tasks.classification import ClassificationTask
from mobilebert_tf.tasks.glue import read_glue
from mobilebert_tf.tasks.labelled_texts import encode_examples
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.fine_tuning import training_loss
from mobilebert_tf.training.optimizers import AdamW
from mobilebert_tf.training.step import TrainStep

LABELS = ("negative", "positive")
Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class SpeedOptions(Options):
    """What to train, on what, and for how long."""

    data_dir: str = option(f"{DATA}/glue", "Folder of SST-2/train.tsv.")
    vocab_file: str = option(f"{VOCABULARY}", "Vocabulary.")
    preset: str = option("mobilebert", "Architecture.")
    num_steps: int = option(12, "Steps to time.", min=1)
    batch_size: int = option(16, "Examples a step.", min=1)
    max_seq_length: int = option(128, "Width of padded batches.", min=16)
    learning_rate: float = option(3e-5, "Of all ways.", min=0.0)
    peer: bool = option(True, "Compare with transformers, if installed.")


def widened(batch: Batch, width: int) -> Batch:
    """A batch with columns of padding added."""
    missing = width - batch["input_ids"].shape[1]
    return {
        name: np.pad(array, ((0, 0), (0, missing)))
        if name in INPUT_NAMES
        else array
        for name, array in batch.items()
    }


def random_batches(batches: list[Batch], max_width: int) -> list[Batch]:
    """The same examples in another order, each batch as wide as it must be."""
    wide = [widened(batch, max_width) for batch in batches]
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


def our_step(
    options: SpeedOptions, vocab_size: int
) -> Callable[[Batch], float]:
    """Builds a classifier, the same at each call, and returns its step."""
    keras.utils.set_random_seed(1)
    config = mb.MobileBertConfig.from_preset(
        options.preset, vocab_size=vocab_size
    )
    model = mb.MobileBertForSequenceClassification(config, LABELS)
    optimizer = AdamW(
        options.learning_rate,
        decay_rate=0.01,
        global_clipnorm=1.0,
        bias_correction=True,
    )
    loss = training_loss(ClassificationTask(LABELS), model)
    step = TrainStep(loss, model.trainable_variables, optimizer)
    return lambda batch: float(step(batch)["loss"])


def peer_step(learning_rate: float) -> Callable[[Batch], float]:
    """Builds Hugging Face's model and returns its step."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = transformers.MobileBertConfig(num_labels=len(LABELS))
    model = transformers.MobileBertForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=0.01
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


def main(options: SpeedOptions) -> None:
    """Reads, warms up, takes steps in turn, prints."""
    width = options.max_seq_length
    tokenizer = WordpieceTokenizer.from_vocab_file(options.vocab_file)
    examples = read_glue("sst2", options.data_dir, ["train"])["train"]
    arrays = encode_examples(examples, tokenizer, width, LABELS)
    endless = training_batches(arrays, batch_size=options.batch_size, seed=1)
    batches = list(itertools.islice(endless, options.num_steps))
    shares = {
        width: len(rows) / len(arrays["labels"])
        for width, rows in bucketed_rows(arrays)
    }
    mean = sum(width * share for width, share in shares.items())
    parts = ", ".join(f"{shares[width]:.1%} at {width}" for width in shares)
    print(f"SST-2: mean width {mean:.1f}; {parts}")
    steps = {
        name: our_step(options, tokenizer.vocab_size)
        for name in ("bucketed", "padded")
    }
    fed = {
        "bucketed": batches,
        "padded": [widened(batch, width) for batch in batches],
    }
    has_peer = importlib.util.find_spec("transformers") and options.peer
    if has_peer:
        steps["peer"] = peer_step(options.learning_rate)
        fed["peer"] = random_batches(batches, width)
    # One batch of each width; the same examples for all, so that ways which
    # began alike go on alike.
    first = {b["input_ids"].shape[1]: i for i, b in enumerate(batches)}
    for name, step in steps.items():
        warm_up(step, [fed[name][i] for i in first.values()], name)
    left = {name: iter(its_batches) for name, its_batches in fed.items()}
    times = interleaved(
        {
            name: lambda name=name: steps[name](next(left[name]))
            for name in steps
        },
        options.num_steps,
        warm_up=0,
    )
    print(f"\n{options.num_steps} steps of {options.batch_size} examples")
    print("            width  median s/step  examples/s  times bucketed's")
    for name, row in times.items():
        widths = [batch["input_ids"].shape[1] for batch in fed[name]]
        print(
            f"{name:<10}  {statistics.mean(widths):5.1f}"
            f"  {row['median_ms'] / 1e3:13.2f}"
            f"  {1e3 * options.batch_size / row['mean_ms']:10.1f}"
            f"  {row['mean_ms'] / times['bucketed']['mean_ms']:16.2f}"
        )


if __name__ == "__main__":
    start(main, SpeedOptions, __doc__)
