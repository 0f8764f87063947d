"""The story of the package on a real small model: one misaligned expert spoils a merge.

After "Model Merging and Safety Alignment: One Bad Model Spoils the Bunch" (arXiv 2406.14563),
with SmolLM2-135M-Instruct and three small LoRA experts that ship with the package.
"""
