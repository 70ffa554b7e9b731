"""Rows of the TPU compiler as tests want them, without compiling."""

from mobilebert_tf.tools.tpu_table import Row
from mobilebert_tf.training.tpu_aot import CHIPS, CompiledStep

GIB = 2**30


def compiled(flops=4e12, **changes):
    values = {
        "flops": flops,
        "bytes_accessed": 2.5e11,
        "argument_bytes": 2 * GIB,
        "temporary_bytes": 3 * GIB,
        "program_bytes": GIB // 2,
        "available_bytes": 16 * GIB,
        "seconds": 61.0,
    }
    return CompiledStep(**(values | changes))


def row(kind="pretraining", slice_name="v5e:1x1", flops=4e12, **changes):
    values = {
        "kind": kind,
        "backend": "tensorflow",
        "slice_name": slice_name,
        "chip": CHIPS[slice_name.partition(":")[0]],
        "batch_size": 8,
        "tokens": 8 * 512,
        "counted_flops": 9e8,
        "compiled": compiled(flops),
    }
    return Row(**(values | changes))
