"""Options of training, each declared, explained and checked once.

Plain values, without Keras or TensorFlow, so that `--help` needs neither.
"""

import dataclasses

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.options import LARGEST_NUMBER, Options, option
from mobilebert_tf.presets import PRESETS

# Values of --final_model.
LAST, BEST = "last", "best"


@dataclasses.dataclass(frozen=True)
class OutputOptions(Options):
    """Where a command writes."""

    output_dir: str | None = option(
        None,
        "Model folder to write: new, empty, or that of a run which the same "
        "command continues.",
        required=True,
        everyday=True,
        resumable=True,
    )
    restart: bool = option(
        False,
        "Delete the run in --output_dir, though not the files of others, and "
        "train again there.",
        resumable=True,
    )


@dataclasses.dataclass(frozen=True)
class ArchitectureOptions(Options):
    """The architecture of a new model."""

    group = "model"

    preset: str | None = option(
        None, "Architecture by name.", choices=tuple(PRESETS), everyday=True
    )
    config_file: str | None = option(
        None,
        "Architecture as JSON (google-research's or Hugging Face's), instead "
        "of --preset. The vocabulary determines vocab_size.",
    )

    @property
    def name(self) -> str:
        """The config file or preset, for titles."""
        return self.config_file or self.preset

    def config(self, vocab_size: int, max_seq_length: int) -> MobileBertConfig:
        """Returns the config for a vocabulary.

        Raises:
            InputError: no architecture is given, its file is malformed, or it
                has fewer positions than `max_seq_length`.
        """
        if self.config_file:
            config = MobileBertConfig.from_json(self.config_file)
        elif self.preset:
            config = MobileBertConfig.from_preset(self.preset)
        else:
            raise InputError("--preset", "a preset or --config_file", "neither")
        longest = config.max_position_embeddings
        if max_seq_length > longest:
            raise InputError(
                "--max_seq_length", f"at most {longest}", max_seq_length
            )
        return dataclasses.replace(config, vocab_size=vocab_size)


@dataclasses.dataclass(frozen=True)
class OptimizerOptions(Options):
    """The optimizer and the shape of its schedule, but not the peak rate."""

    optimizer: str = option("adamw", "Optimizer.", choices=("adamw", "lamb"))
    warmup_proportion: float = option(
        0.1, "Share of the steps with a rising learning rate.", min=0.0, max=1.0
    )
    end_learning_rate_factor: float = option(
        0.0,
        "Share of the learning rate that is left at the end (1e-4 in the "
        "release).",
        min=0.0,
        max=1.0,
    )
    decay_power: float = option(
        1.0, "Power of the polynomial decay; 1 is linear.", min=0.0
    )
    weight_decay: float = option(
        0.01, "Weight decay of matrices and tables.", min=0.0
    )
    bias_correction: bool = option(
        True,
        "Correct Adam's moments for their start at zero (the release does "
        "not; short runs need it).",
    )


@dataclasses.dataclass(frozen=True)
class StepOptions(Options):
    """How a step is carried out; its result stays the same up to rounding."""

    accumulation_steps: int = option(
        1,
        "Parts that each batch is split into and that run one after the "
        "other, for batches beyond the memory.",
        min=1,
        resumable=True,
    )
    steps_per_execution: int = option(
        1,
        "Steps in one call, for devices that would wait for Python.",
        min=1,
        resumable=True,
    )
    jit_compile: bool = option(
        False,
        "Compile the step with XLA (on several devices, only the gradient).",
        resumable=True,
    )


@dataclasses.dataclass(frozen=True)
class RunOptions(Options):
    """When a run logs, saves and gives up."""

    log_every: int = option(
        50, "Steps between two log lines.", min=1, resumable=True
    )
    save_every_seconds: float = option(
        120.0, "Seconds between two checkpoints.", resumable=True
    )
    skip_nonfinite: int = option(
        0,
        "Number of steps with a NaN or infinite loss or gradient to leave out "
        "before the run stops.",
        min=0,
        resumable=True,
    )


@dataclasses.dataclass(frozen=True)
class DeviceOptions(Options):
    """Where training runs, and in which precision."""

    distribution: str = option(
        "none",
        "Devices: none (just one), mirrored, multi_worker or tpu. mirrored: "
        "the GPUs of this machine. multi_worker: the machines listed in "
        "TF_CONFIG, with --output_dir on a disk that all of them see. tpu: the "
        "cores of --tpu.",
        choices=("none", "mirrored", "multi_worker", "tpu"),
        everyday=True,
        resumable=True,
    )
    num_gpus: int | None = option(
        None,
        "Number of GPUs for --distribution=mirrored; all by default.",
        min=1,
        resumable=True,
    )
    tpu: str | None = option(
        None,
        "Name or address of a TPU; by default the one of this machine.",
        resumable=True,
    )
    rematerialize: bool = option(
        False,
        "Keep only the inputs of blocks and compute the rest again for the "
        "gradient: less memory, more time.",
        resumable=True,
    )
    mixed_precision: str = option(
        "float32",
        "Precision of computation; weights stay float32. float16 is refused: "
        "it ends at 65504, and activations without a norm reach 2.5e7.",
        choices=("float32", "bfloat16", "float16"),
    )

    def __post_init__(self):
        super().__post_init__()
        for name, kind in (("num_gpus", "mirrored"), ("tpu", "tpu")):
            if getattr(self, name) is not None and self.distribution != kind:
                raise InputError(
                    f"--{name}",
                    f"--distribution={kind} with it",
                    self.distribution,
                )
        if self.mixed_precision == "float16":
            raise InputError(
                "--mixed_precision",
                "float32 or bfloat16 (float16 ends at 65504, and activations "
                "without a norm reach 2.5e7)",
                "float16",
            )


@dataclasses.dataclass(frozen=True)
class PretrainingOptions(Options):
    """What pre-training and pre-training distillation share."""

    learning_rate: float = option(
        1e-3, "Peak learning rate.", min=0.0, everyday=True
    )
    train_batch_size: int = option(
        32, "Sequences per step.", min=1, everyday=True
    )
    seed: int = option(1, "Random seed.", min=0, everyday=True)
    evaluate_every: int = option(
        1000,
        "Steps between two evaluations on held-out text. The weights of the "
        "best one are kept; 0 evaluates only at the end.",
        min=0,
        everyday=True,
    )
    max_eval_batches: int = option(
        100,
        "Largest number of held-out batches in an evaluation before the end.",
        min=1,
    )
    final_model: str = option(
        LAST,
        "Weights to write as the model: the last, or those of the best "
        "evaluation (lowest masked LM loss).",
        choices=(LAST, BEST),
        resumable=True,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.final_model == BEST and not self.evaluate_every:
            raise InputError("--final_model", "last, without evaluations", BEST)


@dataclasses.dataclass(frozen=True)
class FineTuningOptions(Options):
    """Hyper-parameters of fine-tuning, and how its runs are compared."""

    learning_rate: tuple[float, ...] | None = option(
        None,
        "Peak rates. Several, separated by commas, are compared, like batch "
        "sizes and epochs.",
        everyday=True,
        min=0.0,
        resumable=True,
    )
    train_batch_size: tuple[int, ...] | None = option(
        None,
        "Examples per step, on all devices together.",
        everyday=True,
        min=1,
        resumable=True,
    )
    num_train_epochs: tuple[int, ...] | None = option(
        None,
        "Passes over the training examples.",
        everyday=True,
        min=1,
        resumable=True,
    )
    seed: int = option(
        1,
        "Seed of new weights, dropout and the order of examples.",
        min=0,
        resumable=True,
    )
    num_seeds: int = option(
        1,
        "Runs of each setting, with seeds from --seed upwards.",
        min=1,
        resumable=True,
    )
    eval_every_steps: int | None = option(
        None,
        "Steps between evaluations on dev, whose best weights are kept; an "
        "epoch if not given.",
        min=1,
    )
    patience: int | None = option(
        None,
        "End a run after so many evaluations without a better score.",
        min=1,
    )
    eval_batch_size: int = option(
        64, "Examples at once in evaluation.", min=1, resumable=True
    )
    bucket_lengths: tuple[int, ...] | None = option(
        None,
        "Widths that batches of shorter examples are cut to; each is "
        "compiled. Empty, and with --steps_per_execution: all are as wide as "
        "--max_seq_length. If not given: widths that suit the task.",
        min=1,
        # Those that result are recorded.
        resumable=True,
    )

    def __post_init__(self):
        super().__post_init__()
        if 0.0 in (self.learning_rate or ()):
            raise InputError("--learning_rate", "positive numbers", "0")
        last = self.seed + self.num_seeds - 1
        if last > LARGEST_NUMBER:
            raise InputError("--seed", f"seeds to {LARGEST_NUMBER}", last)


@dataclasses.dataclass(frozen=True)
class TeacherOptions(Options):
    """A fine-tuned teacher, and the share of the loss that it has."""

    teacher: str | None = option(
        None,
        "Fine-tuned model of the same task, labels and vocabulary to learn "
        "from as well.",
        everyday=True,
    )
    distillation_weight: float = option(
        0.5,
        "Share of the loss that compares with the teacher's answers instead "
        "of the labels.",
        min=0.0,
        max=1.0,
    )
    temperature: float = option(
        1.0,
        "Divides the logits of teacher and student before they are compared.",
        min=0.01,
    )
    feature_map_transfer_weight: float = option(
        0.0,
        "Factor of the mean squared difference of feature maps, for a teacher "
        "with as many blocks of the same width.",
        min=0.0,
    )
