"""The control store: companies, cursors, leases, parked state, quarantine, ledger."""
