"""Preprocessed cases on disk, from which a patch is read without the whole volume."""
