"""Packs: sets of questions that the field compares by, under a name, by revision and hash."""
