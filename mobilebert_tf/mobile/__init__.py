"""The phone: a folded graph, int8 training, TFLite files, LiteRT runs.

    folding        every NoNorm into a neighbouring dense layer, exactly
    rounding       what an integer kernel does to a tensor, or a stand-in
    deployment     the graph of the folded weights; what ships is what it says
    quantization   calibrated ranges and quantisation-aware training on it
    export         .tflite files, checked against the graph before they appear
    runtime        predictions and latency by the LiteRT interpreter

TensorFlow is this room's only backend.
"""
