"""What is minimised, and within which constraints."""
