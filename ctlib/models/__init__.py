"""Networks by key, and the weights that they begin from."""
