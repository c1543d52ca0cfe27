"""Where the time of one token goes, on its way through all peers and within each of them (docs/performance.md)."""
