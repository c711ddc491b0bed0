"""How things are shown, for the command line, the API and the console alike."""
