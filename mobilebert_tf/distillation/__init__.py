"""Teacher and student: what is transferred, when, and at what rate.

Formulas and weights are the release's (google-research `mobilebert`) without
its defects: statistics are compared block by block, attention by a true KL
divergence, and padding counts in no mean.
"""
