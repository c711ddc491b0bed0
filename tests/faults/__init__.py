"""The promises of the package when something else fails: killed processes, databases in trouble, hostile disks."""
