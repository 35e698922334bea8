"""Whole models and whole programs through `torch.compile`, each compared with eager PyTorch bit by bit."""
