"""Labelled images in, JPEG variants out, network inputs from either."""
