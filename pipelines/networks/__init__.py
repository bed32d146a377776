"""Pretrained networks, their cut points, and the eleven-branch topology behind a cut."""
