"""Options of training: what a step, a run, an optimizer and devices can vary.

Plain values, without Keras or TensorFlow, so that commands can list them.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """How a step is carried out; its result stays the same up to rounding.

    Attributes:
        accumulation_steps: parts that each replica's examples are cut into,
            processed one after the other, for batches beyond its memory.
        steps_per_execution: steps in one call, for devices that would wait
            for Python otherwise.
        jit_compile: compile with XLA; on several devices the gradient only.
    """

    accumulation_steps: int = 1
    steps_per_execution: int = 1
    jit_compile: bool = False


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """When a run logs, saves and gives up.

    Attributes:
        log_every: steps between two log lines.
        save_every_seconds: seconds between two checkpoints.
        skip_nonfinite: number of steps with a NaN or infinite loss or
            gradient that are left out before the run stops.
    """

    log_every: int = 50
    save_every_seconds: float = 120.0
    skip_nonfinite: int = 0
