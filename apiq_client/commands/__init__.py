"""The subcommands of `apiq`, a file for each subject."""
