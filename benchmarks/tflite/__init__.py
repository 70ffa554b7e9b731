"""Latency, memory and operations of .tflite files, ours and others'."""
