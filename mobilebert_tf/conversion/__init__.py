"""Other people's weights, in and out.

A source is listed as a dict of tensors that are not read yet. Tables in
`names` map each name to a variable of ours; `tensors.match` accounts for every
tensor. The result is written one tensor at a time, as a model folder or as a
TensorFlow 1 checkpoint.
"""
