"""The loop: optimizers, the compiled step, state that survives, and its log."""
