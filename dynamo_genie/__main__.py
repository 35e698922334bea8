"""`python -m dynamo_genie` is the command `genie`."""

from __future__ import annotations

from dynamo_genie.cli.__main__ import main

if __name__ == "__main__":
    main()
