"""Developer tools: nothing here is needed to run callstream."""
