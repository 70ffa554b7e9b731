"""The network: layers, encoder, heads and task models, on `keras.ops` alone.

Nothing here imports TensorFlow, so the same layers run, train and compile on
every Keras backend. Teacher and students are the same layers under different
configs.
"""
