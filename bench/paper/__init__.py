"""The experiment of arXiv 2406.14563 in small: combiners and searches on SmolLM2's experts."""
