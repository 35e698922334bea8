"""A decode step and the weights on their way to one device, against what its memory and processor allow."""
