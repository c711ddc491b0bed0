"""The console in a real browser, over what a real worker recorded."""
