"""Shows what the backend knows of a graph: files, a report, log lines. Watches; decides and changes nothing."""
