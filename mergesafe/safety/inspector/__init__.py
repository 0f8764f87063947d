"""Inspectors: small encoders that say how likely a response is safe (arXiv 2403.04224)."""
