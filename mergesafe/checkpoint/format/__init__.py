"""Files of tensors: safetensors, adapters, and what a folder of them holds."""
