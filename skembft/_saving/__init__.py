"""Directories of fitted finetuners, written and read."""
