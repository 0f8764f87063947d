"""Makes the numbers about a model that some merge methods need, from records of conversations."""
