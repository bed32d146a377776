"""Sets of variants: what they are made from, and the work of making them."""
