"""Segmentation networks, one family per file, and the blocks that they share."""
