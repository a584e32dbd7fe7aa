"""Media files as the chunks of a call, and reading hostile ones in processes of their own. Knows nothing of Kafka."""
