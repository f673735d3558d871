"""Every form of X and y, checked, and what it becomes."""
