"""Aligners: small models that correct answers, one a criterion (arXiv 2403.04224)."""
