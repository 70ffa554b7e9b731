"""Fine-tunes and evaluates a model that answers questions.

    python run_squad.py --model=runs/student --output_dir=runs/answers

`--help` explains it; `mobilebert squad` is the same command.
"""

from mobilebert_tf.commands.finetune import SQUAD

if __name__ == "__main__":
    SQUAD()
