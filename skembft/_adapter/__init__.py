"""AdapterFinetuner: a small layer trained over frozen embeddings."""
