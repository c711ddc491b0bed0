"""What the package promises when something else fails: killed processes, databases in trouble, hostile disks."""
