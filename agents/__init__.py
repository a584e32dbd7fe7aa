"""One module per technology. Agents are thin: decode, call the core, publish, give the offset back."""
