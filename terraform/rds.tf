# PostgreSQL in two zones, reached over TLS by the nodes alone.

resource "aws_db_subnet_group" "main" {
  name       = local.name
  subnet_ids = aws_subnet.data[*].id
}

resource "aws_db_parameter_group" "main" {
  name_prefix = "${local.name}-"
  family      = "postgres${var.postgres_version}"

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  # Connections are told, and statements that change the schema; no other, since their values may be of a patient.
  parameter {
    name  = "log_connections"
    value = "1"
  }

  parameter {
    name  = "log_disconnections"
    value = "1"
  }

  parameter {
    name  = "log_statement"
    value = "ddl"
  }

  parameter {
    name  = "log_parameter_max_length_on_error"
    value = "0"
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudwatch_log_group" "database" {
  for_each          = toset(["postgresql", "upgrade"])
  name              = "/aws/rds/instance/${local.name}/${each.value}"
  kms_key_id        = aws_kms_key.main["logs"].arn
  retention_in_days = var.log_days
}

resource "aws_db_instance" "main" {
  #checkov:skip=CKV2_AWS_30:queries hold what may be of a patient and stay out of the logs; changes of the schema are logged
  identifier     = local.name
  engine         = "postgres"
  engine_version = var.postgres_version
  instance_class = local.size.database_type
  db_name        = local.name
  multi_az       = true

  storage_type          = "gp3"
  allocated_storage     = local.size.database_gib
  max_allocated_storage = local.size.database_gib * 4
  storage_encrypted     = true
  kms_key_id            = aws_kms_key.main["database"].arn

  username                            = "administrator"
  manage_master_user_password         = true
  master_user_secret_kms_key_id       = aws_kms_key.main["database"].arn
  iam_database_authentication_enabled = true

  db_subnet_group_name   = aws_db_subnet_group.main.name
  vpc_security_group_ids = [aws_security_group.database.id]
  parameter_group_name   = aws_db_parameter_group.main.name
  publicly_accessible    = false
  ca_cert_identifier     = "rds-ca-rsa2048-g1"

  # Backups with the transaction log: any second of these days can be restored.
  backup_retention_period   = var.backup_days
  backup_window             = "01:00-02:00"
  maintenance_window        = "sun:02:30-sun:03:30"
  copy_tags_to_snapshot     = true
  delete_automated_backups  = false
  deletion_protection       = true
  skip_final_snapshot       = false
  final_snapshot_identifier = "${local.name}-final"

  auto_minor_version_upgrade      = true
  performance_insights_enabled    = true
  performance_insights_kms_key_id = aws_kms_key.main["database"].arn
  monitoring_interval             = 60
  monitoring_role_arn             = aws_iam_role.service["rds-monitoring"].arn
  enabled_cloudwatch_logs_exports = ["postgresql", "upgrade"]

  depends_on = [aws_cloudwatch_log_group.database]

  lifecycle {
    prevent_destroy = true
  }
}
