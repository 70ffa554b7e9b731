"""The phone: a folded graph, int8 training, TFLite files, LiteRT runs.

    folding        every NoNorm into a neighbouring dense layer, exactly
    rounding       what an integer kernel does to a tensor, or a stand-in
    deployment     the graph of the folded weights; what ships is what it says
    equalization   channels of like range before anything is rounded, exactly
    calibration    ranges from real batches, by one of three methods
    quantization   ranges at work, and quantisation-aware training
    range_schedule its rates, when ranges move, and which model stays
    export         .tflite files, checked against the graph before they appear
    signatures     their lengths, names, and the order of their tensors
    metadata       vocabulary and labels inside, for the text tasks of phones
    text_input     the tokenizer inside
    verification   does a file answer like its graph?
    runtime        predictions and latency by the LiteRT interpreter
    shipping       from a fine-tuned model to files with a metric on each
    shipped_tasks  what shipping has to know of a task

TensorFlow is this room's only backend.
"""
