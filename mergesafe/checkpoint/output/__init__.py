"""The folder that a merge writes: complete and durable, or absent."""
