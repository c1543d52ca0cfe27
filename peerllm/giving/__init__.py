"""What this machine gave and used: receipts that both sides sign, and the ledger that keeps them."""
