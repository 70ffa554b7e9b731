"""From a Keras model to .tflite files for phones."""
