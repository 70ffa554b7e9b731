"""Predictions to metrics: what a model is worth, in the usual numbers.

This room knows neither models nor files: labels and predictions come in as
arrays, numbers go out under fixed names. The formulas are scikit-learn's and
SciPy's.
"""
