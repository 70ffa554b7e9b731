"""Rules of the house that ruff does not check: imports, sizes and names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = [
    *(REPOSITORY / "mobilebert_tf").rglob("*.py"),
    *(REPOSITORY / "benchmarks").rglob("*.py"),
    *REPOSITORY.glob("run_*.py"),
]
MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 80

# Files that can be imported without Keras and TensorFlow.
LIGHT = (
    "*.py",
    "commands/*.py",
    "data/*.py",
    "distillation/schedule.py",
    "mobile/runtime.py",
    "tasks/*.py",
    "text/*.py",
    "training/run_folder.py",
    "*/options.py",
)
# Those that read and write TensorFlow's records, and what is built on them.
HEAVY = {
    "commands.shards",
    "data.records",
    "data.shards",
    "data.stream",
}
IMPORT_WITHOUT = """
import importlib, sys
sys.modules |= dict.fromkeys(["keras", "tensorflow", "tensorflow_text"])
failed = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed.append(f"{name}: {error}")
sys.exit("\\n".join(failed) or 0)
"""


def _name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def test_imports_keep_the_contracts():
    """Those of `[tool.importlinter]` in pyproject.toml."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stdout


def test_light_modules_need_neither_keras_nor_tensorflow():
    package = REPOSITORY / "mobilebert_tf"
    names = {
        ".".join(path.relative_to(package).with_suffix("").parts)
        for pattern in LIGHT
        for path in package.glob(pattern)
        if path.stem != "__main__"
    }
    modules = [f"mobilebert_tf.{name}" for name in sorted(names - HEAVY)]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT, *modules],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_and_functions_are_small(path):
    text = path.read_text(encoding="utf-8")
    assert path.stem not in ("util", "utils"), "names nothing that it owns"
    assert "allow_pickle=True" not in text
    assert len(text.splitlines()) <= MAX_FILE_LINES
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, functions):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, node.name
