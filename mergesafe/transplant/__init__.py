"""Give a model the tokenizer of another one: rows of its embedding and head for other tokens."""
