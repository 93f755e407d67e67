"""Jobs that are command lines, and what runs them."""
