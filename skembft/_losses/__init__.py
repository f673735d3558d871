"""The table of losses, what each learns from, their arguments, and InfoNCE."""
