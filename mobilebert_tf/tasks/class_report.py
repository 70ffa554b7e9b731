"""What a classifier does class by class: tables, confusions, thresholds.

Shape letters: N examples, C classes.
"""

import importlib.util
import os
from collections.abc import Mapping, Sequence

import numpy as np

from mobilebert_tf.files import atomic_file

# Classes that a terminal has room for, and the longest name of one.
_MAX_CLASSES, _MAX_NAME = 12, 24
# Classes whose shares introduce a split.
_MAX_SHARES = 8


def shares(counts: Mapping[str, int], total: int) -> str:
    """Returns the most frequent names with their shares of a total."""
    largest = sorted(counts, key=lambda name: (-counts[name], name))
    shown = [
        f"{_short(name)} {100.0 * counts[name] / total:.3g} %"
        for name in largest[:_MAX_SHARES]
    ]
    more = len(largest) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def class_table(
    labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]
) -> list[str]:
    """Returns precision, recall, F1 and the number of examples by class.

    Args:
        labels: class indices [N], or 0 and 1 for several labels [N, C].
        predictions: as `labels`.
        names: the classes.
    """
    # Imported where it is needed, so that `--help` does not wait for it.
    import sklearn.metrics

    scores = sklearn.metrics.precision_recall_fscore_support(
        labels, predictions, labels=range(len(names)), zero_division=0.0
    )
    rows = [
        [_short(name), *(f"{value:.3f}" for value in values), f"{support:,}"]
        for name, *values, support in zip(names, *scores, strict=True)
    ]
    return aligned([["", "precision", "recall", "f1", "examples"], *rows])


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """Counts examples by true class (row) and predicted class, [C, C]."""
    import sklearn.metrics

    return sklearn.metrics.confusion_matrix(
        labels, predictions, labels=range(len(names))
    )


def confusion_table(matrix: np.ndarray, names: Sequence[str]) -> list[str]:
    """Returns the matrix or, of many classes, the most frequent confusions."""
    short = list(map(_short, names))
    if len(names) <= _MAX_CLASSES:
        rows = [
            [name, *map(str, row)]
            for name, row in zip(short, matrix.tolist(), strict=True)
        ]
        return aligned([["true \\ predicted", *short], *rows])
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_CLASSES]
    return [
        f"{wrong[row, column]:,} of {short[row]} are named {short[column]}"
        for row, column in zip(*np.unravel_index(order, wrong.shape))
        if wrong[row, column]
    ]


def draw_confusion(
    path: str | os.PathLike, matrix: np.ndarray, names: Sequence[str]
) -> None:
    """Writes the matrix as a picture, in shares of the true class.

    Without Matplotlib it writes nothing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return
    from matplotlib.figure import Figure

    size = min(3.0 + 0.45 * len(names), 24.0)
    figure = Figure((size + 1.0, size), layout="constrained")
    axes = figure.subplots()
    totals = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shares = matrix / totals
    image = axes.imshow(shares, vmin=0.0, vmax=1.0, cmap="Blues")
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    short = list(map(_short, names))
    # A name may hold Matplotlib's sign of a formula.
    labels = [name.replace("$", r"\$") for name in short]
    axes.set_xticks(range(len(names)), labels, rotation=90)
    axes.set_yticks(range(len(names)), labels)
    axes.set(xlabel="predicted class", ylabel="true class")
    for (row, column), number in np.ndenumerate(matrix):
        if number and len(names) <= 2 * _MAX_CLASSES:
            color = "white" if shares[row, column] > 0.5 else "black"
            style = {"ha": "center", "va": "center", "color": color}
            axes.text(column, row, f"{number:,}", **style)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def threshold_table(
    marks: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    precision: float | None = None,
    recall: float | None = None,
) -> list[str]:
    """Returns by class the threshold that reaches a precision or a recall.

    An example is of a class if its probability is at least the threshold. Of
    those that reach the wanted precision it is the lowest, so with the largest
    recall; of those that reach the wanted recall the highest.

    Args:
        marks: 0 or 1 for each class, [N, C].
        probabilities: [N, C].
        names: the classes.
        precision: the least that is wanted.
        recall: the least that is wanted, if no precision is.
    """
    rows = [["", "threshold", "precision", "recall"]]
    for name, mark, scores in zip(names, marks.T, probabilities.T, strict=True):
        found = None
        if mark.any():
            found = _threshold(mark, scores, precision, recall)
        cells = [f"{value:.4f}" for value in found] if found else ["none"]
        rows.append([_short(name), *cells, *[""] * (3 - len(cells))])
    return aligned(rows)


def _threshold(mark, scores, precision, recall):
    """Returns threshold, precision and recall there, or None."""
    import sklearn.metrics

    precisions, recalls, thresholds = sklearn.metrics.precision_recall_curve(
        mark, scores
    )
    # The last point, of no prediction at all, has no threshold.
    precisions, recalls = precisions[:-1], recalls[:-1]
    # Thresholds ascend: recall falls with them.
    reached = (
        recalls >= recall if precision is None else precisions >= precision
    )
    (indices,) = np.nonzero(reached)
    if not len(indices):
        return None
    index = indices[-1] if precision is None else indices[0]
    return thresholds[index], precisions[index], recalls[index]


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Returns rows as lines, the first column to the left, others right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [
                cell.rjust(width)
                for cell, width in zip(row[1:], widths[1:], strict=True)
            ]
        ).rstrip()
        for row in cells
    ]


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 3]}..."
