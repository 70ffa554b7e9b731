"""The habits that keep the house readable, held by a walk over its syntax.

A rule is a function from a repository's folder to a list of offences, so that
the same rule judges the real tree and small trees that must fail it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "mobilebert_tf"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80

# A file imports from its own room or from a lower floor. The package itself
# (its `__init__.py`, which gathers the public names) counts as a door.
FLOORS = {
    "config": 0,
    "errors": 0,
    "atomic": 0,
    "hub": 0,
    "presets": 0,
    "data": 1,
    "evaluation": 1,
    "modeling": 2,
    "distillation": 3,
    "conversion": 3,
    "training": 4,
    "mobile": 4,
    "flags": 5,
    "pipeline": 5,
    "tools": 5,
    "run": 5,
    PACKAGE: 5,
}
# Neighbours on one floor that may know each other: importer, imported.
NEIGHBOURS = {
    ("config", "errors"),
    ("config", "atomic"),
    ("config", "presets"),
    ("atomic", "errors"),
    ("hub", "errors"),
    ("mobile", "training"),
    ("run", "flags"),
    ("run", PACKAGE),
    ("tools", "flags"),
    ("tools", PACKAGE),
}
TEXT_ROOMS = {"data", "evaluation"}
MODEL_ROOMS = {"modeling", "distillation", "conversion"}
DOORS = {"flags", "tools", "run"}
BACKEND_NEUTRAL_ROOMS = {"config", "modeling", "distillation"}
TENSORFLOW = {
    "tensorflow",
    "tensorflow_datasets",
    "tensorflow_model_optimization",
    "tensorflow_text",
    "tf_keras",
}
UNPICKLERS = {"cloudpickle", "dill", "joblib", "pickle", "shelve"}


class SourceFile:
    """One Python file: where it stands, its syntax and what it imports."""

    def __init__(self, path: Path, repository: Path):
        self.name = path.relative_to(repository).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text, self.name)
        self.module = list(path.relative_to(repository).with_suffix("").parts)
        self.is_package = self.module[-1] == "__init__"
        if self.is_package:
            self.module.pop()
        self.room = room_of(self.module)

    def at(self, node: ast.AST, offence: str) -> str:
        """Words an offence with its place."""
        return f"{self.name}:{node.lineno}: {offence}"

    def imports(self) -> Iterator[tuple[ast.AST, str]]:
        """Yields each imported name in full, those inside functions too.

        `from a import b` gives `a.b`: whether b is a module or a value makes
        no difference to the room it comes from.
        """
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node, alias.name
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield node, ".".join([*self._source(node), alias.name])
            elif is_call_of(node, "import_module", "__import__"):
                if node.args and isinstance(node.args[0], ast.Constant):
                    yield node, str(node.args[0].value)

    def _source(self, node: ast.ImportFrom) -> list[str]:
        name = node.module.split(".") if node.module else []
        if not node.level:
            return name
        # One dot is the folder of this file; each further dot one above it.
        drop = node.level - self.is_package
        return self.module[: len(self.module) - drop] + name


def room_of(module: list[str]) -> str | None:
    """Names the room of one of our modules; None for other people's."""
    if module[0].startswith("run_"):
        return "run"
    if module[0] != PACKAGE:
        return None
    return module[1] if len(module) > 1 else PACKAGE


def is_call_of(node: ast.AST, *names: str) -> bool:
    """Whether `node` calls a function of one of `names`, dotted or not."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    called = getattr(function, "attr", getattr(function, "id", None))
    return called in names


def source_files(repository: Path) -> list[SourceFile]:
    """Reads the package and the scripts."""
    paths = [
        *sorted((repository / PACKAGE).rglob("*.py")),
        *sorted(repository.glob("run_*.py")),
    ]
    return [SourceFile(path, repository) for path in paths]


def our_imports(file: SourceFile) -> Iterator[tuple[ast.AST, str]]:
    """Yields the rooms that a file imports from, other than its own."""
    for node, name in file.imports():
        parts = name.split(".")
        room = room_of(parts)
        if room is None:
            continue
        # `from mobilebert_tf import load` names no room: the package has it.
        room = room if room in FLOORS else PACKAGE
        # Each script is a room of its own: they share what lies below them.
        if room != file.room or room == "run":
            yield node, room


def rooms_stand_on_floors(repository: Path) -> list[str]:
    """Every file lies in a room that has a floor."""
    return [
        f"{file.name}: no floor is known for {file.room!r}"
        for file in source_files(repository)
        if file.room not in FLOORS
    ]


def imports_go_down(repository: Path) -> list[str]:
    """Nothing is imported from above, or from an unlisted neighbour."""
    offences = []
    for file in source_files(repository):
        for node, room in our_imports(file):
            if file.room not in FLOORS or (file.room, room) in NEIGHBOURS:
                continue
            if FLOORS[room] > FLOORS[file.room]:
                offences.append(file.at(node, f"imports upward: {room}"))
            elif FLOORS[room] == FLOORS[file.room]:
                offences.append(file.at(node, f"imports sideways: {room}"))
    return offences


def models_know_no_text(repository: Path) -> list[str]:
    """Model code takes arrays: data and model meet in `training` and above."""
    offences = []
    for file in source_files(repository):
        if file.room in MODEL_ROOMS:
            offences += [
                file.at(node, f"model code imports {room}")
                for node, room in our_imports(file)
                if room in TEXT_ROOMS
            ]
    return offences


def models_are_backend_neutral(repository: Path) -> list[str]:
    """The model and its distillation run wherever Keras runs."""
    return [
        file.at(node, f"imports TensorFlow: {name}")
        for file in source_files(repository)
        if file.room in BACKEND_NEUTRAL_ROOMS
        for node, name in file.imports()
        if name.split(".")[0] in TENSORFLOW
    ]


def flags_stay_at_the_doors(repository: Path) -> list[str]:
    """Only scripts, tools and the flag module read flags."""
    return [
        file.at(node, "imports absl.flags")
        for file in source_files(repository)
        if file.room not in DOORS
        for node, name in file.imports()
        if f"{name}.".startswith("absl.flags.") or name == "absl.*"
    ]


def public_names_have_docstrings(repository: Path) -> list[str]:
    """Modules, classes and functions say what they are for."""
    definitions = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    offences = []
    for file in source_files(repository):
        if ast.get_docstring(file.tree) is None:
            offences.append(f"{file.name}:1: module without docstring")
        for node in file.tree.body:
            if not isinstance(node, definitions) or node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None:
                offences.append(file.at(node, f"{node.name}: no docstring"))
    return offences


def files_and_functions_are_small(repository: Path) -> list[str]:
    """A file is one room and a function one thought."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    offences = []
    for file in source_files(repository):
        lines = len(file.text.splitlines())
        if lines > MAX_FILE_LINES:
            offences.append(f"{file.name}: {lines} lines")
        for node in ast.walk(file.tree):
            if isinstance(node, functions):
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    offences.append(
                        file.at(node, f"{node.name}: {lines} lines")
                    )
    return offences


def nothing_is_called_utils(repository: Path) -> list[str]:
    """A file is named after what it owns."""
    return [
        f"{file.name}: says nothing about what it owns"
        for file in source_files(repository)
        if {"utils", "util"} & set(file.module)
    ]


def errors_are_named(repository: Path) -> list[str]:
    """No `except` catches what its author did not think of."""
    offences = []
    for file in source_files(repository):
        for node in ast.walk(file.tree):
            if isinstance(node, ast.ExceptHandler):
                kinds = getattr(node.type, "elts", [node.type])
            elif is_call_of(node, "suppress"):
                kinds = node.args
            else:
                continue
            names = {getattr(kind, "id", None) for kind in kinds}
            if None in kinds or names & {"Exception", "BaseException"}:
                offences.append(file.at(node, "catches everything"))
    return offences


def nothing_is_unpickled(repository: Path) -> list[str]:
    """A file from elsewhere cannot run code here."""
    offences = []
    for file in source_files(repository):
        for node, name in file.imports():
            if name.split(".")[0] in UNPICKLERS:
                offences.append(file.at(node, f"imports {name}"))
        for node in ast.walk(file.tree):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                if getattr(node.value, "value", True):
                    offences.append(file.at(node.value, "allows pickles"))
    return offences


RULES = [
    rooms_stand_on_floors,
    imports_go_down,
    models_know_no_text,
    models_are_backend_neutral,
    flags_stay_at_the_doors,
    public_names_have_docstrings,
    files_and_functions_are_small,
    nothing_is_called_utils,
    errors_are_named,
    nothing_is_unpickled,
]
