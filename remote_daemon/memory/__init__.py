"""Device and host memory: resident buffers, budgets, weights, KV arenas, offload."""
