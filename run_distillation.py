r"""Teaches a student: progressive knowledge transfer, then distillation.

The student's embeddings and pre-training heads are copied from the teacher;
then, block by block from below, its feature maps and attention are fitted to
the teacher's; last, pre-training distillation trains all of it.

    python run_distillation.py --teacher=runs/teacher \
        --preset=mobilebert_small --output_dir=runs/student

Text defaults to the documentation of the installed Python packages. If the
teacher was trained on other text, name that with --input_files.
"""

from mobilebert_tf.commands.distill import COMMAND

if __name__ == "__main__":
    COMMAND()
