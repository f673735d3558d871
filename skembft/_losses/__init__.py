"""The table of losses, what each learns from, and their arguments."""
