# Kafka: three brokers, one a zone. Programs and institutions come with user and password (SCRAM) over TLS, and
# access.tf says what each may do; IAM is for the administration of topics and rules by Terraform.

resource "aws_msk_configuration" "main" {
  name           = local.name
  kafka_versions = [var.kafka_version]

  # Who is not named in a rule may do nothing; the brokers themselves are super users.
  server_properties = <<-PROPERTIES
    allow.everyone.if.no.acl.found=false
    auto.create.topics.enable=false
    default.replication.factor=3
    min.insync.replicas=2
    unclean.leader.election.enable=false
    message.max.bytes=16777216
    replica.fetch.max.bytes=16777216
  PROPERTIES
}

resource "aws_cloudwatch_log_group" "brokers" {
  name              = "/${local.name}/brokers"
  kms_key_id        = aws_kms_key.main["logs"].arn
  retention_in_days = var.log_days
}

resource "aws_msk_cluster" "main" {
  cluster_name           = local.name
  kafka_version          = var.kafka_version
  number_of_broker_nodes = 3
  enhanced_monitoring    = "PER_TOPIC_PER_BROKER"

  broker_node_group_info {
    instance_type   = local.size.broker_type
    client_subnets  = aws_subnet.data[*].id
    security_groups = [aws_security_group.brokers.id]

    storage_info {
      ebs_storage_info {
        volume_size = local.size.broker_gib
      }
    }
  }

  client_authentication {
    unauthenticated = false

    sasl {
      iam   = true
      scram = true
    }
  }

  configuration_info {
    arn      = aws_msk_configuration.main.arn
    revision = aws_msk_configuration.main.latest_revision
  }

  encryption_info {
    encryption_at_rest_kms_key_arn = aws_kms_key.main["kafka"].arn

    encryption_in_transit {
      client_broker = "TLS"
      in_cluster    = true
    }
  }

  logging_info {
    broker_logs {
      cloudwatch_logs {
        enabled   = true
        log_group = aws_cloudwatch_log_group.brokers.name
      }
    }
  }

  open_monitoring {
    prometheus {
      jmx_exporter {
        enabled_in_broker = true
      }

      node_exporter {
        enabled_in_broker = true
      }
    }
  }

  lifecycle {
    prevent_destroy = true
    ignore_changes  = [broker_node_group_info[0].storage_info[0].ebs_storage_info[0].volume_size] # grows by itself
  }
}

resource "aws_appautoscaling_target" "broker_storage" {
  service_namespace  = "kafka"
  resource_id        = aws_msk_cluster.main.arn
  scalable_dimension = "kafka:broker-storage:VolumeSize"
  min_capacity       = 1
  max_capacity       = local.size.broker_gib * 4
}

resource "aws_appautoscaling_policy" "broker_storage" {
  name               = "${local.name}-broker-storage"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.broker_storage.service_namespace
  resource_id        = aws_appautoscaling_target.broker_storage.resource_id
  scalable_dimension = aws_appautoscaling_target.broker_storage.scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value     = 60
    disable_scale_in = true

    predefined_metric_specification {
      predefined_metric_type = "KafkaBrokerStorageUtilization"
    }
  }
}

data "aws_iam_policy_document" "kafka_secret" {
  for_each = local.kafka_users

  statement {
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [aws_secretsmanager_secret.kafka[each.key].arn]

    principals {
      type        = "Service"
      identifiers = ["kafka.amazonaws.com"]
    }
  }
}

resource "aws_secretsmanager_secret_policy" "kafka" {
  for_each   = local.kafka_users
  secret_arn = aws_secretsmanager_secret.kafka[each.key].arn
  policy     = data.aws_iam_policy_document.kafka_secret[each.key].json
}

resource "aws_msk_scram_secret_association" "main" {
  cluster_arn     = aws_msk_cluster.main.arn
  secret_arn_list = [for secret in aws_secretsmanager_secret.kafka : secret.arn]
  depends_on      = [aws_secretsmanager_secret_version.kafka, aws_secretsmanager_secret_policy.kafka]
}

resource "kafka_topic" "main" {
  for_each           = var.kafka_reachable ? local.topics : {}
  name               = each.key
  partitions         = local.size.partitions
  replication_factor = 3
  config             = merge(each.value.config, { "min.insync.replicas" = "2" })

  lifecycle {
    prevent_destroy = true
  }
}

resource "kafka_acl" "main" {
  for_each                     = var.kafka_reachable ? local.access_rules : {}
  acl_principal                = "User:${each.value.user}"
  acl_host                     = "*"
  acl_operation                = each.value.operation
  acl_permission_type          = "Allow"
  resource_type                = each.value.type
  resource_name                = each.value.name
  resource_pattern_type_filter = each.value.pattern
  depends_on                   = [kafka_topic.main]
}
