"""What is said: every Kafka record and HTTP body as msgspec Structs. This package imports nothing of the others."""
