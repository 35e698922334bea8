"""What deaths, crowds and long use cost: clients that see none of it, and daemons that hold."""
