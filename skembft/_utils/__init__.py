"""Small helpers of all folders: messages, vectors, whole files."""
