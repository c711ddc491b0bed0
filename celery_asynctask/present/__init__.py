"""Texts and signs that the command line, the API and the console share."""
