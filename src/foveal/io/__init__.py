"""What reads and writes files: volumes, cases, data set layouts, safe replacement."""
