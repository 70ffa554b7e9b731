"""Other people's weights, in and out.

A source is read as a dict of tensors not in memory yet. Its table, data
only, says what each name is in our models, or that it is knowingly dropped.
`tensors.match` accounts for every one; what comes out is written one tensor at
a time, as a model folder or as a TF1 checkpoint.
"""
