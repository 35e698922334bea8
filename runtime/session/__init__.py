"""A session with one worker: commands, handles, bulk data and links to other workers."""
