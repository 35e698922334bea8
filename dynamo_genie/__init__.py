"""Run PyTorch models on an accelerator elsewhere: `torch.compile(model, backend="genie")`."""
