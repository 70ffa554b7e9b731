r"""Pre-trains a model on raw text: masked LM and next sentence prediction.

Any preset; with `--preset=ib_bert_large` (or `ib_bert_small`) it trains the
inverted-bottleneck teacher, whose recipe the paper's authors did not publish.

    python run_pretraining.py --preset=ib_bert_small --output_dir=runs/teacher

reads the documentation of the installed Python packages, learns a vocabulary
from it and writes a model folder. With your own text:

    python run_pretraining.py --preset=ib_bert_small \
        --input_files='corpus/*.txt' --output_dir=runs/teacher
"""

from mobilebert_tf.commands.pretrain import COMMAND

if __name__ == "__main__":
    COMMAND()
