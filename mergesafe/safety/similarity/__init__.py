"""How alike models are: their task vectors layer by layer, and what they answer."""
