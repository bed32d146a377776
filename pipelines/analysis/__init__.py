"""Accuracy, paired statistics and their presentation, in plain NumPy and SciPy."""
