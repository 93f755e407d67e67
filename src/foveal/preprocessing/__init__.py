"""From a case's own grid and intensities to those that the network sees, and back."""
