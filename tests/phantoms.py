"""Small made-up cases whose right answers are known by hand."""
