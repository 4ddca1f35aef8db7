"""What the pages of all reports are made of."""
