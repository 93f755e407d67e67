"""Random changes of training patches: where their voxels lie and what they measure."""
