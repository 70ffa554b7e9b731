"""Checks the published weights, once, on a machine with internet.

    python -m benchmarks.check_published

Downloads `mobilebert-uncased` and compares its outputs with those that
Hugging Face's own tests expect. Then scores a model that was fine-tuned on
SQuAD v1.1 on the dev set, in Keras and as float32 and int8 files (calibrated
only), and prints a block for docs/results.md. An hour on two cores, most of it
SQuAD; --squad_model= leaves that out. 2 GB of disk.
"""

import dataclasses
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.instruments import start
from mobilebert_tf.downloads import download
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import sha256
from mobilebert_tf.hub import PUBLISHED, model_folder
from mobilebert_tf.options import Options, option

# Of transformers' tests (Apache-2.0): test_modeling_mobilebert.py, the first
# three values of the first three tokens. Channel 0 of [CLS] is that large.
SEQUENCE_IDS = [[101, 7110, 1005, 1056, 2023, 11333, 17413, 1029, 102]]
SEQUENCE_OUTPUT = [
    [-2.4736526e7, 8.2691656e4, 1.6521838e5],
    [-0.57541704, 3.9056022, 4.4011507],
    [2.6047359, 1.5677652, -0.17324188],
]
# Of its test_modeling_tf_mobilebert.py.
MASKED_LM_IDS = [[0, 1, 2, 3, 4, 5]]
MASKED_LM_LOGITS = [
    [-4.5919547, -9.248295, -9.645256],
    [-6.7306175, -6.440284, -6.6052837],
    [-7.2743506, -6.7847915, -6.024673],
]
# Values span eight orders of magnitude: only their ratio can be compared.
RATIO_TOLERANCE = 1e-3
MASKED_LM_TOLERANCE = 1e-4

_SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
# F1 on SQuAD v1.1's dev set: the paper; MLPerf's int8 file, trained quantised.
_PAPER_F1, _MLPERF_INT8_F1 = 90.0, 88.0


@dataclasses.dataclass(frozen=True)
class CheckOptions(Options):
    """What is checked, and where files go."""

    model: str = option(
        "mobilebert-uncased", "Folder or name of the pre-trained weights."
    )
    squad_model: str = option(
        "mobilebert-uncased-squad-v1",
        "Folder or name of a model for SQuAD v1.1; empty for none.",
    )
    train_file: str = option("", "SQuAD's train-v1.1.json; else downloaded.")
    dev_file: str = option("", "SQuAD's dev-v1.1.json; else downloaded.")
    max_seq_length: int = option(384, "Length of the windows.", min=16)
    output_dir: str = option("runs/check_published", "Folder for files.")


def golden_outputs(model) -> dict[str, tuple[float, float]]:
    """Returns the largest difference from each published output, and its limit.

    Args:
        model: the published weights with both pre-training heads.
    """
    encoded = model.encoder({"input_ids": np.array(SEQUENCE_IDS, "int32")})
    logits = model({"input_ids": np.array(MASKED_LM_IDS, "int32")})
    ratios = _corner(encoded.sequence_output) / np.array(SEQUENCE_OUTPUT)
    found = _corner(logits["masked_lm_logits"])
    difference = np.abs(found - np.array(MASKED_LM_LOGITS)).max()
    return {
        "sequence output, ratio minus 1": (
            float(np.abs(ratios - 1).max()),
            RATIO_TOLERANCE,
        ),
        "masked LM logits": (float(difference), MASKED_LM_TOLERANCE),
    }


def _corner(tensor) -> np.ndarray:
    import keras

    return keras.ops.convert_to_numpy(tensor)[0, :3, :3]


def check_weights(name: str) -> list[str]:
    """Returns lines about the weights' files and outputs."""
    import mobilebert_tf as mb

    folder = model_folder(name)
    lines = [f"{name}: {folder.name}"]
    for file in sorted(folder.iterdir()):
        if file.suffix in (".h5", ".safetensors", ".json", ".txt"):
            size = file.stat().st_size
            lines.append(f"  {file.name}: {size:,} bytes, {sha256(file)}")
    model = mb.load(folder)
    if not isinstance(model, mb.MobileBertForPretraining):
        raise InputError(name, "pre-training heads", model.architecture)
    for what, (difference, limit) in golden_outputs(model).items():
        verdict = "agree" if difference <= limit else "DIFFER"
        lines.append(f"  {what}: {difference:.1e} of {limit:.0e}: {verdict}")
    return lines


def check_squad(options: CheckOptions) -> list[str]:
    """Returns lines with exact match and F1 of the model and its files."""
    from mobilebert_tf.commands.finetune import SQUAD

    folder = Path(options.output_dir)
    files = {
        split: getattr(options, f"{split}_file") or _squad_file(folder, split)
        for split in ("train", "dev")
    }
    SQUAD.run(
        [
            f"--model={options.squad_model}",
            f"--train_file={files['train']}",
            f"--dev_file={files['dev']}",
            "--nodo_train",
            "--export=float32,int8",
            f"--max_seq_length={options.max_seq_length}",
            f"--max_query_length={min(64, options.max_seq_length // 3)}",
            f"--doc_stride={min(128, options.max_seq_length // 3)}",
            f"--output_dir={folder / 'squad'}",
        ]
    )
    log = (folder / "squad" / "metrics.jsonl").read_text().splitlines()
    values = json.loads(log[-1])
    lines = [f"{options.squad_model}: SQuAD v1.1 dev"]
    for name in ("Keras", "float32", "int8"):
        prefix = "" if name == "Keras" else f"{name}_"
        exact, f1 = values[f"{prefix}dev_exact"], values[f"{prefix}dev_f1"]
        lines.append(f"  {name}: exact match {exact:.2f}, F1 {f1:.2f}")
    lines.append(
        f"  (published F1: {_PAPER_F1} float; {_MLPERF_INT8_F1} int8 after "
        "quantisation-aware training)"
    )
    return lines


def _squad_file(folder: Path, split: str) -> Path:
    name = f"{split}-v1.1.json"
    if not (folder / name).exists():
        place = folder / f"{split}_download"
        place.mkdir(parents=True, exist_ok=True)
        download(f"{_SQUAD}/{name}", place).replace(folder / name)
    return folder / name


def main(options: CheckOptions) -> None:
    """Checks and prints the block."""
    packages = ("keras", "tensorflow", "ai-edge-litert", "huggingface_hub")
    lines = [
        f"{platform.machine()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages),
    ]
    steps = [lambda: check_weights(options.model)]
    if options.squad_model:
        steps.append(lambda: check_squad(options))
    for step in steps:
        try:
            lines += step()
        except InputError as error:
            lines.append(f"not checked: {error}")
    known = PUBLISHED.get(options.model)
    if known is not None:
        lines.append(f"fetched from {known.source}")
    print("\n--- paste this into docs/results.md ---")
    print("\n".join(f"    {line}" for line in lines))


if __name__ == "__main__":
    start(main, CheckOptions, __doc__)
