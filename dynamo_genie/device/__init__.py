"""`remote_accelerator:N`: a device of PyTorch whose tensors live in the N-th daemon of this process."""
