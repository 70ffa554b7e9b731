"""Runs files through an interpreter of any age, on any processor.

    python answers.py INPUTS.npz FILE...

Writes FILE.npz beside each, its outputs by name, and prints a line of JSON: why
each file was refused, or null. Needs NumPy and a runtime, nothing else.
"""

import json
import sys

import numpy as np

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tflite_runtime.interpreter import Interpreter


def answers(path, inputs):
    """Returns the outputs by name, [N, ...]."""
    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    run = interpreter.get_signature_runner("serving_default")
    rows = [
        run(**{name: values[row : row + 1] for name, values in inputs.items()})
        for row in range(len(inputs["input_ids"]))
    ]
    return {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}


if __name__ == "__main__":
    inputs = dict(np.load(sys.argv[1]))
    refusals = []
    for path in sys.argv[2:]:
        try:
            np.savez(path + ".npz", **answers(path, inputs))
        except (RuntimeError, ValueError) as error:
            refusals.append(str(error))
        else:
            refusals.append(None)
    print(json.dumps(refusals))
