"""What names of tensors and settings mean: wrappers, buffers, embeddings, heads, layouts.

Facts about architectures live here and nowhere else; nothing here opens a file.
"""
