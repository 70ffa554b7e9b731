"""Teacher and student: what is transferred, when, and at what rate.

Formulas and weights are the release's (google-research `mobilebert`), with
its defects put right: statistics are compared block by block, attention by a
true KL divergence, and padding counts in no mean.
"""
