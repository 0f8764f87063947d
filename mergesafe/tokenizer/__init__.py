"""Which id each token has: vocabularies read from a model's files, and compared. No torch."""
