"""Vets merges that nobody has written: pairs, all but one, each expert at several strengths."""
