"""Commands besides the four scripts: `python -m mobilebert_tf.tools.NAME`."""
