"""Losses, networks, samplers and methods that users add from files of their own."""
