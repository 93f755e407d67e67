"""Options of every network, one family per file; see `foveal.networks`."""
