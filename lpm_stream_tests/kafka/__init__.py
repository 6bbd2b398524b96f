"""What the tests against a real Kafka broker need."""
