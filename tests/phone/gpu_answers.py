"""Runs files on LiteRT's GPU accelerator, in a process of its own.

    python gpu_answers.py INPUTS.npz FILE...

Writes FILE.npz beside each: its outputs by name, and `accelerated`, whether the
GPU ran all operations. The Vulkan loader reads VK_DRIVER_FILES when it starts,
and a file that the accelerator refuses can end the process.
"""

import sys

import numpy as np
from ai_edge_litert.gpu_options import GpuOptions
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.options import Options

from mobilebert_tf.mobile.runtime import TFLiteModel, predict_compiled

if __name__ == "__main__":
    inputs = dict(np.load(sys.argv[1]))
    options = Options(
        hardware_accelerators=HardwareAccelerator.GPU | HardwareAccelerator.CPU,
        gpu_options=GpuOptions(enforce_f32=True),
    )
    for path in sys.argv[2:]:
        found, accelerated = predict_compiled(path, inputs, options)
        if not isinstance(found, dict):
            found = {TFLiteModel(path).output_names[0]: found}
        np.savez(f"{path}.npz", accelerated=accelerated, **found)
