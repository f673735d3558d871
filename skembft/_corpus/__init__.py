"""CorpusFinetuner: moving the vectors of documents (NUDGE)."""
