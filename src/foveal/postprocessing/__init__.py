"""What is done to a segmentation after the network decided it."""
