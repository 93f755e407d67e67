"""What compares a predicted mask with an expert's: overlap, surfaces and volume."""
