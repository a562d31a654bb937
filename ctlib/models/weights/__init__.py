"""Where weights come from, how they are read, and the ledger that accounts for every tensor."""
