"""Two interpreters: the light one of the clients, and the one with the node's packages, which `peerllm setup` makes."""
