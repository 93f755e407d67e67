"""Figures and the one-file page that show how a run went."""
