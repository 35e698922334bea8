"""Remote tensors, and the eager operators applied to them."""
