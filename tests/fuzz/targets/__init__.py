"""The targets, by what they read. Functions are called as the commands call them."""
