"""From a recipe and headers to the tensors of the output: what each is made of."""
