"""The operators a worker may run, and how programs are checked against them."""
