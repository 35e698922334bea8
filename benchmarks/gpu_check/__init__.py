"""`make gpu-check`: everything that only a real GPU can show, in stages that each have a limit of time."""
