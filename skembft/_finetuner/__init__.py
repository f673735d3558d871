"""What all finetuners share: fit, score, retrieve, validation, history."""
