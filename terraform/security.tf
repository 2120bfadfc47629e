# Keys by what they keep, and who may talk to whom.

locals {
  keys = {
    cluster  = "Secrets of the Kubernetes cluster"
    database = "The PostgreSQL database, its backups and its master password"
    kafka    = "The brokers' disks"
    objects  = "Buckets and container images"
    secrets  = "Secrets Manager: users of Kafka, the pseudonym key"
    logs     = "Log groups"
  }
}

data "aws_iam_policy_document" "key" {
  for_each = local.keys

  #checkov:skip=CKV_AWS_109:a key's policy names the key it belongs to as "*"; without the account nobody could administer it
  #checkov:skip=CKV_AWS_111:as above
  #checkov:skip=CKV_AWS_356:as above
  statement {
    sid       = "AccountByIam"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:aws:iam::${var.account_id}:root"]
    }
  }

  dynamic "statement" {
    for_each = each.key == "logs" ? ["logs.${var.region}.amazonaws.com"] : []

    content {
      sid       = "CloudWatchLogs"
      actions   = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
      resources = ["*"]

      principals {
        type        = "Service"
        identifiers = [statement.value]
      }

      condition {
        test     = "ArnLike"
        variable = "kms:EncryptionContext:aws:logs:arn"
        values   = ["arn:aws:logs:${var.region}:${var.account_id}:log-group:*"]
      }
    }
  }
}

resource "aws_kms_key" "main" {
  for_each                = local.keys
  description             = "${local.name}: ${each.value}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key[each.key].json
}

resource "aws_kms_alias" "main" {
  for_each      = local.keys
  name          = "alias/${local.name}-${each.key}"
  target_key_id = aws_kms_key.main[each.key].key_id
}

# The nodes' own group is the one that EKS makes for the cluster.

resource "aws_security_group" "endpoints" {
  name        = "${local.name}-endpoints"
  description = "Interface endpoints, for the private subnets"
  vpc_id      = aws_vpc.main.id
}

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  count             = 3
  security_group_id = aws_security_group.endpoints.id
  description       = "HTTPS from a private subnet"
  cidr_ipv4         = aws_subnet.private[count.index].cidr_block
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_ingress_rule" "control_plane" {
  for_each          = toset(var.operator_cidrs)
  security_group_id = aws_eks_cluster.main.vpc_config[0].cluster_security_group_id
  description       = "Kubernetes API for operators"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_security_group" "database" {
  name        = "${local.name}-database"
  description = "PostgreSQL, for the cluster's nodes"
  vpc_id      = aws_vpc.main.id
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = aws_security_group.database.id
  description                  = "PostgreSQL from the nodes"
  referenced_security_group_id = aws_eks_cluster.main.vpc_config[0].cluster_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

resource "aws_security_group" "brokers" {
  name        = "${local.name}-brokers"
  description = "Kafka, for the nodes, the institutions and operators"
  vpc_id      = aws_vpc.main.id
}

resource "aws_vpc_security_group_ingress_rule" "brokers_nodes" {
  security_group_id            = aws_security_group.brokers.id
  description                  = "SCRAM over TLS from the nodes"
  referenced_security_group_id = aws_eks_cluster.main.vpc_config[0].cluster_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 9096
  to_port                      = 9096
}

resource "aws_vpc_security_group_ingress_rule" "brokers_institutions" {
  for_each = {
    for pair in flatten([for id, cidrs in var.institution_cidrs : [for cidr in cidrs : { id = id, cidr = cidr }]]) :
    "${pair.id} ${pair.cidr}" => pair
  }
  security_group_id = aws_security_group.brokers.id
  description       = "SCRAM over TLS from ${each.value.id}"
  cidr_ipv4         = each.value.cidr
  ip_protocol       = "tcp"
  from_port         = 9096
  to_port           = 9096
}

resource "aws_vpc_security_group_ingress_rule" "brokers_operators" {
  for_each          = toset(var.operator_cidrs)
  security_group_id = aws_security_group.brokers.id
  description       = "IAM over TLS, for topics and access rules"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 9098
  to_port           = 9098
}

# The passwords are written without being kept in the state; a higher version makes new ones.

ephemeral "random_password" "kafka" {
  for_each = local.kafka_users
  length   = 40
  special  = false
}

ephemeral "random_password" "pseudonym_key" {
  length  = 64
  special = false
}

resource "aws_secretsmanager_secret" "kafka" {
  #checkov:skip=CKV2_AWS_57:Kafka's users change their passwords by a higher secret_string_wo_version, since both sides must take the new one
  for_each                = local.kafka_users
  name                    = "AmazonMSK_${local.name}/${each.key}"
  description             = "Kafka user ${each.key}"
  kms_key_id              = aws_kms_key.main["secrets"].arn
  recovery_window_in_days = 30
}

resource "aws_secretsmanager_secret_version" "kafka" {
  for_each                 = local.kafka_users
  secret_id                = aws_secretsmanager_secret.kafka[each.key].id
  secret_string_wo         = jsonencode({ username = each.key, password = ephemeral.random_password.kafka[each.key].result })
  secret_string_wo_version = 1
}

resource "aws_secretsmanager_secret" "pseudonym_key" {
  #checkov:skip=CKV2_AWS_57:another key would make every patient a stranger; it is never rotated
  name                    = "${local.name}/pseudonym-key"
  description             = "Secret that pseudonyms and sealed histories derive from; its loss cannot be made good"
  kms_key_id              = aws_kms_key.main["secrets"].arn
  recovery_window_in_days = 30

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_secretsmanager_secret_version" "pseudonym_key" {
  secret_id                = aws_secretsmanager_secret.pseudonym_key.id
  secret_string_wo         = ephemeral.random_password.pseudonym_key.result
  secret_string_wo_version = 1
}
