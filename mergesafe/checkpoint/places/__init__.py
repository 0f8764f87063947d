"""Where files lie: disks of this machine, the Hub, URLs."""
