"""What only makes training faster; the weights are the same without it."""
