"""What differs between two checkpoints: tensors, settings, tokenizers, files."""
