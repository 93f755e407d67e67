"""The fully connected conditional random field: kernels, lattice, mean field."""
