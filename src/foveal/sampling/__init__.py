"""What decides which patches training sees: places, chances and their randomness."""
