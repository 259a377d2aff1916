"""The shells around the decisions: SSH, store, data plane, local socket, daemon."""
