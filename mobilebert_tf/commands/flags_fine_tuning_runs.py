"""The trainings that the flags of fine-tuning ask for, whatever the task."""

from collections.abc import Callable, Mapping, Sequence

import keras
from absl import flags

from mobilebert_tf.commands import flags_devices as devices
from mobilebert_tf.commands import flags_fine_tuning as tuning
from mobilebert_tf.commands import flags_teacher as teaching
from mobilebert_tf.tasks.classification import ClassificationTask
from mobilebert_tf.tasks.tagging import TokenClassificationTask
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.devices import Distribution
from mobilebert_tf.training.fine_tuning import (
    FineTuningRun,
    GridOutcome,
    Point,
    TaskModel,
    run_grid,
)

FLAGS = flags.FLAGS


def fine_tune(
    task: ClassificationTask | TokenClassificationTask,
    points: Sequence[Point],
    build: Callable[[], TaskModel],
    loss: Callable[[TaskModel], Callable],
    predictor: Callable,
    tokenizer: WordpieceTokenizer,
    distribution: Distribution,
    settings: Mapping,
) -> GridOutcome:
    """Fine-tunes at every point of a grid, from --teacher too if there is one.

    Args:
        task: what is learned.
        points: hyper-parameters and seeds.
        build: makes the model that a run starts from.
        loss: from a model to its loss without a teacher.
        predictor: what the task is scored with (see `FineTuningRun`).
        tokenizer: the model's.
        distribution: where it trains.
        settings: what must not change when the runs go on.

    Raises:
        InputError: if there is nothing to choose among several points by.
    """
    task.check_choice(len(points), FLAGS.patience)
    teacher = teaching.open_teacher(
        distribution,
        tokenizer,
        task.model_class,
        task.label_names,
        FLAGS.max_seq_length,
    )
    options = tuning.fine_tuning_options()

    def start(point: Point, folder) -> FineTuningRun:
        keras.utils.set_random_seed(point.seed)
        with distribution.scope():
            model = build()
            devices.prepare_encoder(model.encoder)
            return FineTuningRun(
                model,
                task,
                point,
                options,
                folder,
                settings,
                devices.run_settings(distribution),
                teaching.task_or_taught_loss(loss, model, teacher),
                predictor,
            )

    return run_grid(points, FLAGS.output_dir, start, settings)
