"""The command line: a module for each group of verbs, and what their options share."""
