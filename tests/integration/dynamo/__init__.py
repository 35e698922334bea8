"""What Dynamo makes of programs that use the backend: what it compiles, how often, and what it leaves alone."""
