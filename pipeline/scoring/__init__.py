"""From embeddings and posteriors to results: aggregation, calibration, comparison. Knows nothing of Kafka."""
