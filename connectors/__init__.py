"""Everything that touches the outside: settings, Kafka, schema registry, PostgreSQL, MLflow, files."""
