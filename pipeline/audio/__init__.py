"""From the chunks of a call to its utterances: order, decoding, resampling, voice activity. Knows nothing of Kafka."""
