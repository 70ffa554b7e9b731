"""`python -m mobilebert_tf` is the command `mobilebert`."""

from mobilebert_tf.commands.main import main

if __name__ == "__main__":
    main()
