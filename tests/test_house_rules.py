"""The house keeps its rules, and every rule can fail.

The real tree must pass. Small trees that break one rule each must not, or a
rule that has gone blind would go on passing for ever.
"""

from pathlib import Path

import pytest

from tests.house_rules import (
    MAX_FILE_LINES,
    MAX_FUNCTION_LINES,
    PACKAGE,
    RULES,
    errors_are_named,
    files_and_functions_are_small,
    flags_stay_at_the_doors,
    imports_go_down,
    models_are_backend_neutral,
    models_know_no_text,
    nothing_is_called_utils,
    nothing_is_unpickled,
    public_names_have_docstrings,
    rooms_stand_on_floors,
    source_files,
)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_its_rules(rule):
    offences = rule(REPOSITORY)
    assert not offences, "\n".join(offences)


def test_the_walk_sees_the_house():
    names = {file.name for file in source_files(REPOSITORY)}
    assert f"{PACKAGE}/config.py" in names
    assert f"{PACKAGE}/modeling/encoder.py" in names


def write_tree(folder: Path, files: dict[str, str]) -> Path:
    """Writes sources, each below a docstring; keys are paths in the package."""
    for name, source in files.items():
        path = folder / (
            name if name.startswith("run_") else f"{PACKAGE}/{name}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""Owns a part."""\n{source}\n')
    return folder


LAWFUL = {
    "__init__.py": "from mobilebert_tf.modeling.encoder import Encoder",
    "config.py": "from mobilebert_tf.errors import InputError",
    "data/batching.py": "import tensorflow\nfrom . import corpus",
    "modeling/encoder.py": "import keras\nfrom ..config import Config",
    "distillation/losses.py": "from mobilebert_tf.modeling import encoder",
    "training/loop.py": "import tensorflow\nfrom ..distillation import losses",
    "mobile/export.py": "from mobilebert_tf.training import loop",
    "evaluation/glue.py": "try: f()\nexcept (OSError, KeyError): pass",
    "flags.py": "from absl import flags",
    "tools/plot.py": "import mobilebert_tf as mb\nfrom absl import flags",
    "run_squad.py": "from mobilebert_tf import data, flags, load, modeling",
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_lawful_tree_passes(rule, tmp_path):
    assert rule(write_tree(tmp_path, LAWFUL)) == []


LONG_FUNCTION = "def _f():\n" + "    pass\n" * MAX_FUNCTION_LINES
# By rule: the file that breaks it, its source, and words of the offence.
UNLAWFUL = {
    rooms_stand_on_floors: [
        ("cli.py", "", "'cli'"),
        ("helpers/text.py", "", "'helpers'"),
    ],
    imports_go_down: [
        ("config.py", "import mobilebert_tf.modeling", "upward"),
        ("config.py", "from . import data", "upward"),
        ("data/a.py", "from ..modeling import norm", "upward"),
        ("data/__init__.py", "from .. import mobile", "upward"),
        ("modeling/a.py", "from mobilebert_tf import load", "upward"),
        ("modeling/a.py", "import mobilebert_tf", "upward"),
        ("modeling/a.py", "import_module('mobilebert_tf.mobile.a')", "upward"),
        ("modeling/a.py", "def _f():\n    from ..mobile import a", "upward"),
        ("training/a.py", "import run_squad", "upward"),
        ("training/a.py", "from ..mobile import a", "sideways"),
        ("data/a.py", "from ..evaluation import glue", "sideways"),
        ("evaluation/a.py", "from .. import data", "sideways"),
        ("errors.py", "from . import config", "sideways"),
        ("flags.py", "from . import tools", "sideways"),
        ("__init__.py", "from . import tools", "sideways"),
        ("run_a.py", "import run_b", "sideways"),
    ],
    models_know_no_text: [
        ("modeling/a.py", "import mobilebert_tf.data.squad", "imports data"),
        ("distillation/a.py", "from .. import evaluation", "imports evalu"),
    ],
    models_are_backend_neutral: [
        ("config.py", "import tensorflow", ":2:"),
        ("modeling/a.py", "import tf_keras", ":2:"),
        ("modeling/a.py", "def _f():\n    from tensorflow import io", ":3:"),
        ("distillation/a.py", "import keras, tensorflow_text as text", ":2:"),
    ],
    flags_stay_at_the_doors: [
        ("training/a.py", "from absl import flags", ":2:"),
        ("data/a.py", "import absl.flags", ":2:"),
        ("data/a.py", "from absl.flags import FLAGS", ":2:"),
    ],
    public_names_have_docstrings: [
        ("data/a.py", "def f(): pass", "f: no docstring"),
        ("data/a.py", "class A: pass", "A: no docstring"),
    ],
    files_and_functions_are_small: [
        ("data/a.py", "#\n" * MAX_FILE_LINES, "402 lines"),
        ("data/a.py", LONG_FUNCTION, "_f: 81 lines"),
    ],
    nothing_is_called_utils: [
        ("data/utils.py", "", "data/utils.py"),
        ("utils/text.py", "", "utils/text.py"),
    ],
    errors_are_named: [
        ("data/a.py", "try: f()\nexcept: pass", ":3:"),
        ("data/a.py", "try: f()\nexcept Exception: pass", ":3:"),
        ("data/a.py", "try: f()\nexcept (A, BaseException): pass", ":3:"),
        ("data/a.py", "with suppress(Exception): f()", ":2:"),
    ],
    nothing_is_unpickled: [
        ("data/a.py", "import pickle", "pickle"),
        ("data/a.py", "from pickle import load", "pickle"),
        ("data/a.py", "load(x, allow_pickle=True)", "pickles"),
    ],
}


@pytest.mark.parametrize(
    "rule, name, source, offence",
    [(rule, *case) for rule, cases in UNLAWFUL.items() for case in cases],
)
def test_an_unlawful_tree_fails(rule, name, source, offence, tmp_path):
    write_tree(tmp_path, {**LAWFUL, name: source})
    (found,) = rule(tmp_path)
    assert offence in found


def test_a_module_without_docstring_fails(tmp_path):
    write_tree(tmp_path, LAWFUL)
    (tmp_path / PACKAGE / "data" / "bare.py").write_text("")
    (found,) = public_names_have_docstrings(tmp_path)
    assert "data/bare.py:1" in found


def test_every_rule_can_fail():
    assert UNLAWFUL.keys() == set(RULES)
