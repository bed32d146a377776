"""The page about judged runs, and the picture of one image: what is read, drawn and written."""
