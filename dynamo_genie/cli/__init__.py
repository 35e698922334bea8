"""The `genie` command. Each subcommand lives in a module of its own, imported when it is called."""
