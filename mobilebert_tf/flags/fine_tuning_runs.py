"""The trainings that the flags of fine-tuning ask for, whatever the task."""

from collections.abc import Callable, Mapping, Sequence

import keras
from absl import flags

from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.flags import devices
from mobilebert_tf.flags import fine_tuning as tuning
from mobilebert_tf.flags import teacher as teaching
from mobilebert_tf.training.classification_task import ClassificationTask
from mobilebert_tf.training.fine_tuning_distillation import TaskModel
from mobilebert_tf.training.fine_tuning_grid import GridOutcome, run_grid
from mobilebert_tf.training.fine_tuning_run import FineTuningRun, Point
from mobilebert_tf.training.strategies import Distribution
from mobilebert_tf.training.token_classification_task import (
    TokenClassificationTask,
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
