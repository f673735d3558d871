"""EmbeddingFinetuner: training of a whole model."""
