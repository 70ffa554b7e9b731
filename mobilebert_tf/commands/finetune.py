r"""Fine-tune, evaluate, predict and export: one body for all tasks.

CLASSIFY, SQUAD and TAG differ in the task that they read. Each starts from a
model folder and writes a model folder:

    read options -> open model and tokenizer -> read the task -> fine-tune, or
    open -> evaluate -> predict -> export -> write
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from mobilebert_tf.commands.command import Command, command_line
from mobilebert_tf.commands.convert import open_model_folder
from mobilebert_tf.errors import InputError
from mobilebert_tf.hub import files_of_model
from mobilebert_tf.mobile.comparison import comparison, warnings
from mobilebert_tf.mobile.options import (
    KINDS,
    ExportOptions,
    QuantizationOptions,
)
from mobilebert_tf.options import Options, option
from mobilebert_tf.ownership import Identity
from mobilebert_tf.tasks.classification import ClassificationTask
from mobilebert_tf.tasks.classification_examples import ClassificationOptions
from mobilebert_tf.tasks.question_answering import (
    QuestionAnsweringOptions,
    QuestionAnsweringTask,
)
from mobilebert_tf.tasks.tagging import TaggingOptions, TaggingTask
from mobilebert_tf.tasks.task import (
    CONFIG_FILE,
    Actions,
    Task,
    TeacherWeights,
    check_length,
    saved_label_names,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.options import (
    DeviceOptions,
    FineTuningOptions,
    OptimizerOptions,
    OutputOptions,
    RunOptions,
    StepOptions,
    TeacherOptions,
)
from mobilebert_tf.training.run_folder import delete_run, identify

# What a kind of file leaves in the folder: see `mobile/stages.py`.
_EXPORTED = (".tflite", "_ranges.tsv", "_training")


@dataclasses.dataclass(frozen=True)
class ModelOptions(Options):
    """The model to start from, and what is done with it."""

    group: ClassVar[str] = "model"

    model: str | None = option(
        None,
        "Model folder, or name of published weights, to start from.",
        required=True,
    )
    do_train: bool = option(
        True, "Fine-tune; otherwise the model must be of the task already."
    )
    do_eval: bool = option(
        True, "Evaluate on dev and test examples.", resumable=True
    )
    do_predict: bool = option(
        True,
        "Predict --predict_file, or the test set of GLUE.",
        resumable=True,
    )


class Given(NamedTuple):
    """The options of a command, in the order of their classes."""

    output: OutputOptions
    start: ModelOptions
    data: Options
    tuning: FineTuningOptions
    optimizer: OptimizerOptions
    teacher: TeacherOptions
    export: ExportOptions
    quantization: QuantizationOptions
    run: RunOptions
    step: StepOptions
    device: DeviceOptions


def main(task_class: type[Task], *options: Options) -> None:
    """Runs a command.

    Args:
        task_class: what is learned.
        *options: the fields of `Given`; `data` are those of the task.

    Raises:
        InputError: an option or a file is not what was expected.
        RunError: training cannot continue.
    """
    given = Given(*options)
    folder = open_model_folder(given.start.model)
    tokenizer = WordpieceTokenizer.from_folder(folder)
    length = given.export.max_seq_length
    check_length(folder, length, "--export_seq_length")

    # TensorFlow is imported after what is wrong without it.
    from mobilebert_tf.mobile.stages import check_export, needs_calibration
    from mobilebert_tf.training.devices import open_devices
    from mobilebert_tf.training.fine_tuning import batch_widths
    from mobilebert_tf.training.grid import grid_points, points_to_train
    from mobilebert_tf.training.inference import Predictor
    from mobilebert_tf.training.model_card import write_model_folder

    devices = open_devices(given.device, len(grid_points(given.tuning)))
    identity = _identity(given, folder, devices.is_chief)
    actions = Actions(
        given.start.do_train,
        given.start.do_eval,
        given.start.do_predict,
        needs_calibration(given.export.kinds),
    )
    task = task_class.read(given.data, tokenizer, folder, actions)
    exported = task
    if given.export.kinds and length not in (None, task.max_seq_length):
        exported = task.of_length(length)
    check_export(given.export, exported, tokenizer)
    widths = batch_widths(given.tuning, given.step, task)
    identity = _completed(identity, given.output.output_dir, task, widths)
    if given.output.restart and devices.is_chief:
        names = [f"{kind}{end}" for kind in KINDS for end in _EXPORTED]
        delete_run(Path(given.output.output_dir), names)
    points = points_to_train(given.tuning, task, folder)
    outcome = _train_or_open(
        given, identity, task, folder, tokenizer, devices, widths, points
    )
    if not devices.is_chief:
        return
    predict = Predictor(outcome.model, given.tuning.eval_batch_size, widths)
    results = _answer(task, predict, actions, given.output.output_dir)
    files, notes = {}, {}
    if given.export.kinds:
        point = outcome.best.point if outcome.best else points[0]
        files, notes = _export(
            given, outcome.model, results, point, exported, tokenizer
        )
    scores = {
        f"{kind}_{name}": value
        for kind, row in files.items()
        for name, value in row.items()
    }
    floors = task.floors(task.labelled("dev") + task.labelled("test"))
    floors = {name: floors[name] for name in results if name in floors}
    outcome.run.finish(results | scores, floors)
    for line in _not_above(task, results, floors):
        print(line, flush=True)
    started = {"Started from": given.start.model}
    write_model_folder(
        given.output.output_dir,
        outcome.model,
        tokenizer,
        title=task.title,
        command=command_line(),
        results=results,
        floors=floors,
        notes=task.notes() | started | outcome.notes() | notes,
    )
    task.save(given.output.output_dir)
    print(_closing(given, task, files, floors), flush=True)


def check_choice(task: Task, num_runs: int, patience: int | None) -> None:
    """Checks that there are dev examples where a choice needs them.

    Prints what their lack means otherwise.

    Raises:
        InputError: several runs, or patience, and no labelled dev split.
    """
    if task.labelled("dev"):
        return
    if num_runs > 1:
        expected = f"labelled examples to choose among {num_runs} runs by"
        raise InputError("--dev_file", expected, "none")
    if patience is not None:
        raise InputError("--patience", "labelled dev examples", "none")
    note = (
        "No dev examples (--dev_file, or --dev_fraction of a table): the last "
        "weights are kept"
    )
    if not task.labelled("test"):
        note += ", and nothing is held out to score the model and its files"
    print(note, flush=True)


def _train_or_open(
    given, identity, task, folder, tokenizer, devices, widths, points
):
    """Returns the `Outcome` of all runs, or the folder's model."""
    from mobilebert_tf.training.fine_tuning import FineTuning, load_task_teacher
    from mobilebert_tf.training.grid import Outcome, run_grid
    from mobilebert_tf.training.loop import Run

    if not given.start.do_train:
        run = Run(given.output.output_dir, (), identity=identity)
        return Outcome(task.build(folder), run)
    check_choice(task, len(points), given.tuning.patience)
    teacher = None
    if given.teacher.teacher:
        with devices.scope():
            teacher = load_task_teacher(
                open_model_folder(given.teacher.teacher), task, tokenizer
            )
    if len(points) == 1:
        print(f"Training with {points[0]}", flush=True)
    common = FineTuning(
        task,
        folder,
        identity,
        given.tuning,
        widths,
        given.optimizer,
        given.step,
        given.run,
        devices,
        teacher,
        TeacherWeights(
            given.teacher.distillation_weight,
            given.teacher.temperature,
            given.teacher.feature_map_transfer_weight,
        ),
        given.device.rematerialize,
    )
    return run_grid(points, given.output.output_dir, common.start, identity)


def _identity(given: Given, folder: Path, is_chief: bool) -> Identity:
    """Returns what a run that continues must not change.

    Refuses a folder that is not the run's, before examples are read.
    """
    options = [
        given.start,
        given.data,
        given.tuning,
        given.optimizer,
        given.teacher,
        given.step,
        given.device,
    ]
    apart, sources = {"--model": folder}, dict(given.data.sources)
    sources["model"] = files_of_model(folder)
    if given.teacher.teacher:
        apart["--teacher"] = open_model_folder(given.teacher.teacher)
        sources["teacher"] = files_of_model(apart["--teacher"])
    return identify(given.output, options, sources, is_chief, apart)


def _completed(
    identity: Identity, output_dir: str, task: Task, widths: Sequence[int]
) -> Identity:
    """Adds what is known once the examples have been read."""
    names = saved = list(task.label_names)
    if names and (Path(output_dir) / CONFIG_FILE).exists():
        # Where an older version left them, once the run had finished.
        saved = list(saved_label_names(output_dir))
    completed = identity.having(
        {
            "label_names": names,
            "max_seq_length": task.max_seq_length,
            # As the flag spells them, or what its default stands for.
            "bucket_lengths": [str(width) for width in widths],
        }
    )
    defaults = dict(identity.defaults) | {"label_names": saved}
    return dataclasses.replace(completed, defaults=defaults)


def _answer(task: Task, predict, actions: Actions, folder: str) -> dict:
    """Scores and writes the answers that are asked for; returns metrics."""
    results, labelled = {}, [*task.labelled("dev"), *task.labelled("test")]
    for split in labelled if actions.evaluate else ():
        outputs = predict(task.splits[split])
        scores = task.metrics(outputs, split)
        results |= {f"{split}_{name}": scores[name] for name in scores}
        task.write(outputs, split, folder)
    others = [name for name in task.splits if name not in ("train", *labelled)]
    for split in others if actions.predict else ():
        task.write(predict(task.splits[split]), split, folder)
    return results


def _closing(
    given: Given,
    task: Task,
    files: Mapping[str, Mapping[str, float]],
    floors: Mapping[str, float],
) -> str:
    """Returns a run's last line: the file to ship, and what to do next.

    It is the smallest of those that lose less than 1 % of the best one's score.

    Args:
        given: the options.
        task: the task with its examples.
        files: scores of the files, by kind.
        floors: by `SPLIT_METRIC`.
    """
    if not files:
        return "Next: the same command with --export=int8_qat for a phone file"
    good = list(files)
    if task.labelled("dev"):
        ranks = {kind: task.score(row) for kind, row in files.items()}
        best = max(ranks.values())
        good = [
            kind for kind in files if ranks[kind] >= best - 0.01 * abs(best)
        ]
    chosen = min(good, key=lambda kind: files[kind]["megabytes"])
    row = files[chosen]
    facts = [f"{row['megabytes']:.2f} MB"]
    for split in task.labelled("dev"):
        for name in (f"{split}_{metric}" for metric in task.chosen_by):
            floor = f" (floor {floors[name]:.4f})" if name in floors else ""
            facts.append(f"{name} {row[name]:.4f}{floor}")
    path = Path(given.output.output_dir) / f"{chosen}.tflite"
    return (
        f"Ship {path}: {', '.join(facts)}. Next: adb push {path} "
        "/data/local/tmp (docs/mobile.md)"
    )


def _not_above(
    task: Task, results: Mapping[str, float], floors: Mapping[str, float]
) -> Iterator[str]:
    """Yields a warning for each result, of those that matter, at its floor."""
    for name, floor in floors.items():
        is_chosen = any(name.endswith(f"_{each}") for each in task.chosen_by)
        if is_chosen and results[name] <= floor:
            yield (
                f"warning: {name} {results[name]:.4f} is not above its floor "
                f"{floor:.4f} ({task.floor_rule})"
            )


def _export(
    given: Given,
    model,
    results: Mapping[str, float],
    point,
    task: Task,
    tokenizer: WordpieceTokenizer,
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Writes and scores the files; compares them with the model's `results`.

    Returns:
        Scores by kind; and a table as a note for the model card.
    """
    from mobilebert_tf.mobile.stages import export_and_score

    rows = export_and_score(
        model,
        task,
        tokenizer,
        given.output.output_dir,
        given.export,
        dataclasses.replace(
            given.quantization,
            batch_size=point.batch_size,
            seed=given.tuning.seed,
        ),
    )
    lines = comparison(rows, results, task)
    print("\n".join([*lines, *warnings(rows, results, task)]), flush=True)
    indented = "\n".join(f"      {line}" for line in lines)
    return rows, {
        f"Files for inputs of {task.max_seq_length} pieces": (
            "held-out metrics, size, and milliseconds of an inference on one "
            f"thread of the machine that wrote them:\n\n{indented}\n"
        )
    }


def _command(
    task_class: type[Task], options: type[Options], description: str, **defaults
) -> Command:
    return Command(
        functools.partial(main, task_class),
        (
            OutputOptions,
            ModelOptions,
            options,
            FineTuningOptions,
            OptimizerOptions,
            TeacherOptions,
            ExportOptions,
            QuantizationOptions,
            RunOptions,
            StepOptions,
            DeviceOptions,
        ),
        defaults,
        description,
    )


CLASSIFY = _command(
    ClassificationTask,
    ClassificationOptions,
    r"""Fine-tunes, evaluates and predicts with a classifier of texts or pairs.

    python run_classifier.py --model=runs/student --output_dir=runs/classifier

learns the built-in task. A task of GLUE, from its official files:

    python run_classifier.py --model=runs/student --output_dir=runs/sst2 \
        --task=sst2 --data_dir=glue/SST-2 \
        --learning_rate=1e-5,3e-5,1e-4 --num_seeds=5 --patience=3

compares three rates with five seeds each and keeps the best on dev; test
predictions are written as GLUE's server takes them. Your own files (.tsv, .csv,
.jsonl or .json, also .gz; delimiter and encoding are recognised), from
published weights:

    python run_classifier.py --model=mobilebert-uncased \
        --train_file=reviews.csv --dev_fraction=0.1 --predict_file=new.csv \
        --export=int8

--export writes .tflite files as well, and compares them with the float model
on the same examples. Without --learning_rate, --train_batch_size and
--num_train_epochs a GLUE task has its own; others have 5e-4, 32 and 3. Without
a rate, a model as wide as the published ones (512) gets 5e-5, 32 and 10, or,
from 20,000 examples on, 3e-5, 32 and 4, as GLUE tasks of that size do.""",
    output_dir="runs/classifier",
)

SQUAD = _command(
    QuestionAnsweringTask,
    QuestionAnsweringOptions,
    r"""Fine-tunes and evaluates a model that answers questions.

    python run_squad.py --model=runs/student --output_dir=runs/answers

learns built-in questions. SQuAD, v1.1 or v2.0, through TensorFlow Datasets
(--task) or from files in its format, your own as well:

    python run_squad.py --model=runs/student --output_dir=runs/answers \
        --train_file=train-v1.1.json --dev_file=dev-v1.1.json \
        --predict_file=new.json

An answer is a stretch of its context. Long contexts are cut into windows.
dev_exact and dev_f1 are the official scores, in percent; the official scripts
read predictions.json, nbest_predictions.json and null_odds.json, which have
dev_ before their names for the dev questions. The folder records how windows
are cut and when a question is left unanswered, which dev decides.""",
    output_dir="runs/answers",
    learning_rate=(4e-5,),
    train_batch_size=(32,),
    num_train_epochs=(5,),
)

TAG = _command(
    TaggingTask,
    TaggingOptions,
    r"""Fine-tunes and evaluates a tagger: a label for every token.

    python -m mobilebert_tf.commands.tag --model=runs/student \
        --output_dir=runs/tagger

learns a built-in task. Your own files, in columns as the CoNLL shared tasks
have them (a token per line, a blank line between sentences):

    python -m mobilebert_tf.commands.tag --model=runs/student \
        --train_file=eng.train --dev_file=eng.testa --test_file=eng.testb \
        --predict_file=new.txt --output_dir=runs/tagger

--predict_file may also hold plain sentences, one a line. For CoNLL-U add
--token_column=2 --tag_column=4.

Tags are IOB1, IOB2, BIOES or BILOU, which is recognised, or, with
--scheme=none, labels such as parts of speech. Precision, recall and F1 are
those of whole entities, as conlleval counts them; it also reads
dev_predictions.conll and test_predictions.conll. Rate, batch and epochs are
those of run_classifier.py by default.""",
    output_dir="runs/tagger",
)
