"""The published prompt formats of guard models, and how their outputs are read."""
