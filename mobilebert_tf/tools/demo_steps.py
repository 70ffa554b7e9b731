"""What the demo runs: its budget, and the six commands of one seed.

The one place for the demo's sizes, steps and rates.
"""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from mobilebert_tf.tools.demo_results import (
    CLASSIFIER_SUFFIX,
    MODELS,
    SHIPPED,
    TFLITE_KINDS,
)


@dataclasses.dataclass(frozen=True)
class DemoBudget:
    """What the demo spends; sized for 15 minutes on two CPU cores.

    Attributes:
        vocab_size: pieces of the vocabulary learned from the text.
        max_seq_length: pieces of a sequence, in every step.
        train_batch_size: sequences a step, in pre-training and distillation.
        teacher_steps: of the teacher's pre-training.
        teacher_learning_rate: its peak.
        transfer_steps: of knowledge transfer, over all blocks.
        transfer_learning_rate: peak of the block that is transferred.
        distillation_steps: of pre-training distillation. The student without
            a teacher trains for as many steps as both together.
        distillation_learning_rate: its peak.
        alone_learning_rate: peak of the student without a teacher.
        classifier_epochs: passes over the task's training examples.
        classifier_examples: train on the first so many; None for all.
        classifier_batch_size: examples a step.
        classifier_learning_rate: peak of fine-tuning.
        qat_steps: of quantisation-aware training.
        qat_learning_rate: its peak, relative to the weights.
        log_every: steps between two points of a loss curve.
    """

    vocab_size: int = 4000
    max_seq_length: int = 64
    train_batch_size: int = 32
    teacher_steps: int = 2500
    teacher_learning_rate: float = 1.5e-3
    transfer_steps: int = 600
    transfer_learning_rate: float = 3e-3
    distillation_steps: int = 600
    distillation_learning_rate: float = 1.5e-3
    alone_learning_rate: float = 1.5e-3
    classifier_epochs: int = 4
    classifier_examples: int | None = 6000
    classifier_batch_size: int = 32
    classifier_learning_rate: float = 2e-3
    qat_steps: int = 150
    qat_learning_rate: float = 1e-3
    log_every: int = 50

    @classmethod
    def full(cls) -> "DemoBudget":
        """The demo as the README shows it."""
        return cls()

    @classmethod
    def tiny(cls) -> "DemoBudget":
        """Every step once, in about two minutes; teaches nothing."""
        return cls(
            vocab_size=800,
            max_seq_length=24,
            train_batch_size=4,
            teacher_steps=6,
            transfer_steps=8,
            distillation_steps=4,
            classifier_epochs=1,
            classifier_examples=64,
            classifier_batch_size=16,
            qat_steps=2,
            log_every=1,
        )


BUDGETS = {"full": DemoBudget.full, "tiny": DemoBudget.tiny}


@dataclasses.dataclass(frozen=True)
class DemoStep:
    """One command of the journey.

    Attributes:
        title: what it does.
        folder: what it writes, below the demo's folder of its seed.
        command: script and flags.
    """

    title: str
    folder: str
    command: tuple[str, ...]


def demo_steps(
    folder: str | Path, budget: DemoBudget, seed: int
) -> list[DemoStep]:
    """Returns the commands of one seed, in order.

    Args:
        folder: the seed's folder, as the commands name it.
        budget: steps, sizes and rates.
        seed: of every command.
    """
    common = _flags(
        max_seq_length=budget.max_seq_length,
        train_batch_size=budget.train_batch_size,
        seed=seed,
        log_every=budget.log_every,
    )
    pretrained = [
        dataclasses.replace(
            step,
            command=(
                *step.command,
                *common,
                f"--output_dir={folder}/{step.folder}",
            ),
        )
        for step in _pretraining_steps(folder, budget)
    ]
    # The one that is shipped comes last.
    names = sorted(MODELS, key=lambda name: name == SHIPPED)
    return pretrained + [
        _fine_tuning(folder, name, budget, seed) for name in names
    ]


def _pretraining_steps(folder, budget: DemoBudget) -> list[DemoStep]:
    """The three models, without the flags that they have in common."""
    student = "--preset=mobilebert_small"
    num_steps = budget.transfer_steps + budget.distillation_steps
    teacher = MODELS["teacher"]
    return [
        DemoStep(
            "Train a teacher on raw text",
            teacher,
            (
                "run_pretraining.py",
                "--preset=ib_bert_small",
                f"--vocab_size={budget.vocab_size}",
                f"--num_train_steps={budget.teacher_steps}",
                f"--learning_rate={budget.teacher_learning_rate}",
            ),
        ),
        DemoStep(
            "Teach a student: block by block, then by distillation",
            MODELS["student, distilled"],
            (
                "run_distillation.py",
                f"--teacher={folder}/{teacher}",
                student,
                f"--num_transfer_steps={budget.transfer_steps}",
                f"--transfer_learning_rate={budget.transfer_learning_rate}",
                f"--num_train_steps={budget.distillation_steps}",
                f"--learning_rate={budget.distillation_learning_rate}",
            ),
        ),
        DemoStep(
            "The same student, steps, batches and text, without a teacher",
            MODELS["student, without a teacher"],
            (
                "run_pretraining.py",
                student,
                f"--vocab_file={folder}/{teacher}/vocab.txt",
                f"--num_train_steps={num_steps}",
                f"--learning_rate={budget.alone_learning_rate}",
            ),
        ),
    ]


def format_command(command: Sequence[str], columns: int = 78) -> str:
    """Sets a Python command for a shell, in lines joined by backslashes."""
    lines, line = [], "python"
    for word in map(shlex.quote, command):
        # Room for a space before the word and a backslash after it.
        if len(line) + len(word) + 3 > columns:
            lines.append(line)
            line = f"    {word}"
        else:
            line += f" {word}"
    return " \\\n".join([*lines, line])


def _fine_tuning(folder, name: str, budget: DemoBudget, seed: int) -> DemoStep:
    model = MODELS[name]
    arguments = {
        "model": f"{folder}/{model}",
        "task": "library",
        "num_train_epochs": budget.classifier_epochs,
        "max_train_examples": budget.classifier_examples,
        "max_seq_length": budget.max_seq_length,
        "train_batch_size": budget.classifier_batch_size,
        "learning_rate": budget.classifier_learning_rate,
        "seed": seed,
        "log_every": budget.log_every,
    }
    title = f"Fine-tune: {name}"
    if name == SHIPPED:
        title += ", and ship it as .tflite"
        arguments |= {
            "export": ",".join(TFLITE_KINDS),
            "num_qat_steps": budget.qat_steps,
            "qat_learning_rate": budget.qat_learning_rate,
        }
    output = model + CLASSIFIER_SUFFIX
    arguments["output_dir"] = f"{folder}/{output}"
    return DemoStep(title, output, ("run_classifier.py", *_flags(**arguments)))


def _flags(**values) -> list[str]:
    return [
        f"--{name}={value}"
        for name, value in values.items()
        if value is not None
    ]
