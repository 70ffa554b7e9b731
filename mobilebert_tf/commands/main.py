"""`mobilebert NAME --flag=value ...`: one entry for all commands."""

import importlib
import sys

from mobilebert_tf.commands.command import fail_for_missing_package

# Name -> module in `commands`, name of its `Command` there, and a summary.
COMMANDS = {
    "pretrain": ("pretrain", "COMMAND", "text -> a teacher, or any model"),
    "distill": ("distill", "COMMAND", "a teacher and text -> a student"),
    "classify": ("finetune", "CLASSIFY", "texts -> labels or numbers"),
    "squad": ("finetune", "SQUAD", "questions -> answers in a context"),
    "tag": ("finetune", "TAG", "words -> tags"),
    "export": ("export", "COMMAND", "a model folder -> .tflite files"),
    "convert": ("convert", "COMMAND", "published weights -> a model folder"),
    "shards": ("shards", "COMMAND", "text -> TFRecord files of examples"),
    "glue_average": ("glue_average", "GLUE_AVERAGE", "runs of GLUE -> average"),
    "demo": ("demo", "COMMAND", "the whole journey at small scale"),
    "report": ("report", "COMMAND", "a demo's results as one HTML page"),
    "plot": ("plot", "COMMAND", "curves and attention of runs"),
}


def usage() -> str:
    """Returns the list of commands."""
    width = max(map(len, COMMANDS))
    lines = [
        f"  {name:{width}}  {summary}"
        for name, (_, _, summary) in COMMANDS.items()
    ]
    return "\n".join(
        ["usage: mobilebert NAME --flag=value ...", "", *lines, ""]
        + ["`mobilebert NAME --help` lists the flags of a command."]
    )


def main() -> None:
    """Runs the command that the first argument names, and exits."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(usage())
        return
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(
            f"mobilebert: expected a command among {known}, found {name}",
            file=sys.stderr,
        )
        sys.exit(2)
    module, attribute, _ = COMMANDS[name]
    sys.argv = [f"mobilebert {name}", *arguments]
    try:
        found = importlib.import_module(f"mobilebert_tf.commands.{module}")
    except ModuleNotFoundError as error:
        fail_for_missing_package(error)
    getattr(found, attribute)()
