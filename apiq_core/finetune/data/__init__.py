"""What is trained on: files of rows, as tokens, in batches."""
