"""How do kernels come back into a PyTorch graph?  Plans kept, kernels loaded and spliced in, the rest compiled."""
