"""Runs `mobilebert tag` as `python -m mobilebert_tf.commands.tag`."""

from mobilebert_tf.commands.finetune import TAG

if __name__ == "__main__":
    TAG()
