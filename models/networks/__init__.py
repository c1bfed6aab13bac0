"""The unrolled networks of the literature; ``registry`` lists them."""
