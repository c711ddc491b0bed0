"""The console in a real browser, with the records of a real worker."""
