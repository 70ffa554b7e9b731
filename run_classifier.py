"""Fine-tunes, evaluates and predicts with a classifier of texts or pairs.

    python run_classifier.py --model=runs/student --output_dir=runs/classifier

`--help` explains it; `mobilebert classify` is the same command.
"""

from mobilebert_tf.commands.finetune import CLASSIFY

if __name__ == "__main__":
    CLASSIFY()
