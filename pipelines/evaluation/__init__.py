"""Judging models side by side on the same images: scores, what is kept of them, the figures."""
