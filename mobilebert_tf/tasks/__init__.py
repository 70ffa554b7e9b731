"""What a model is fine-tuned for: examples, losses, metrics and answers."""
