"""From a Kafka message's bytes to what it says about a patient, or to the reason why not."""
