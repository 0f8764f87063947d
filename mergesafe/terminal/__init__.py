"""What commands and the demo print: text fit for a terminal, progress, tables."""
