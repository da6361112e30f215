"""NFS with lock recovery: RPC, statd's and the lock manager's protocols, and the servers that 60.nfs manages."""
