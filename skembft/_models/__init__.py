"""The files of a text model; loading it once, and encoding with it."""
