# Who may do what: AWS services, the cluster's service accounts, the delivery pipeline. People come by their own roles.

locals {
  # Roles that AWS services take.
  services = {
    cluster        = "eks.amazonaws.com"
    nodes          = "ec2.amazonaws.com"
    rds-monitoring = "monitoring.rds.amazonaws.com"
    vpc-flow-logs  = "vpc-flow-logs.amazonaws.com"
  }

  service_policies = {
    "cluster AmazonEKSClusterPolicy"                   = "arn:aws:iam::aws:policy/AmazonEKSClusterPolicy"
    "nodes AmazonEKSWorkerNodePolicy"                  = "arn:aws:iam::aws:policy/AmazonEKSWorkerNodePolicy"
    "nodes AmazonEC2ContainerRegistryPullOnly"         = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"
    "rds-monitoring AmazonRDSEnhancedMonitoringRole"   = "arn:aws:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"
    "service-account:ebs-csi AmazonEBSCSIDriverPolicy" = "arn:aws:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy"
    "service-account:vpc-cni AmazonEKS_CNI_Policy"     = "arn:aws:iam::aws:policy/AmazonEKS_CNI_Policy"
  }

  # Roles that service accounts of the cluster take (IRSA). The API asks AWS nothing: a role without rights is its.
  service_accounts = {
    worker           = "${local.name}:worker"
    api              = "${local.name}:api"
    trainer          = "${local.name}:trainer"
    mlflow           = "${local.name}:mlflow"
    external-secrets = "external-secrets:external-secrets"
    ebs-csi          = "kube-system:ebs-csi-controller-sa"
    vpc-cni          = "kube-system:aws-node"
  }
}

data "aws_iam_policy_document" "service_trust" {
  for_each = local.services

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = [each.value]
    }

    dynamic "condition" {
      for_each = contains(["rds-monitoring", "vpc-flow-logs"], each.key) ? [var.account_id] : []

      content {
        test     = "StringEquals"
        variable = "aws:SourceAccount"
        values   = [condition.value]
      }
    }
  }
}

resource "aws_iam_role" "service" {
  for_each           = local.services
  name               = "${local.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.service_trust[each.key].json
}

resource "aws_iam_role_policy_attachment" "service" {
  for_each   = { for pair, arn in local.service_policies : pair => arn if !startswith(pair, "service-account:") }
  role       = aws_iam_role.service[split(" ", each.key)[0]].name
  policy_arn = each.value
}

data "aws_iam_policy_document" "vpc_flow_logs" {
  statement {
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
    resources = ["${aws_cloudwatch_log_group.flows.arn}:*"]
  }
}

resource "aws_iam_role_policy" "vpc_flow_logs" {
  name   = "write-flows"
  role   = aws_iam_role.service["vpc-flow-logs"].id
  policy = data.aws_iam_policy_document.vpc_flow_logs.json
}

# Service accounts

resource "aws_iam_openid_connect_provider" "cluster" {
  url            = aws_eks_cluster.main.identity[0].oidc[0].issuer
  client_id_list = ["sts.amazonaws.com"]
}

data "aws_iam_policy_document" "service_account_trust" {
  for_each = local.service_accounts

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [aws_iam_openid_connect_provider.cluster.arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${replace(aws_eks_cluster.main.identity[0].oidc[0].issuer, "https://", "")}:sub"
      values   = ["system:serviceaccount:${each.value}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${replace(aws_eks_cluster.main.identity[0].oidc[0].issuer, "https://", "")}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "service_account" {
  for_each           = local.service_accounts
  name               = "${local.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.service_account_trust[each.key].json
}

resource "aws_iam_role_policy_attachment" "service_account" {
  for_each   = { for pair, arn in local.service_policies : pair => arn if startswith(pair, "service-account:") }
  role       = aws_iam_role.service_account[trimprefix(split(" ", each.key)[0], "service-account:")].name
  policy_arn = each.value
}

data "aws_iam_policy_document" "service_account" {
  for_each = {
    worker  = { read = ["mlflow"], write = [] }
    trainer = { read = ["mlflow", "dvc"], write = ["mlflow", "dvc"] }
    mlflow  = { read = ["mlflow"], write = ["mlflow"] }
  }

  statement {
    sid       = "List"
    actions   = ["s3:ListBucket", "s3:GetBucketLocation"]
    resources = [for bucket in each.value.read : aws_s3_bucket.main[bucket].arn]
  }

  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = [for bucket in each.value.read : "${aws_s3_bucket.main[bucket].arn}/*"]
  }

  statement {
    sid       = "Decrypt"
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.main["objects"].arn]
  }

  # Nobody but the lifecycle rules deletes: an object that is overwritten keeps its earlier versions.
  dynamic "statement" {
    for_each = length(each.value.write) > 0 ? [each.value.write] : []

    content {
      sid       = "Write"
      actions   = ["s3:PutObject", "s3:AbortMultipartUpload"]
      resources = [for bucket in statement.value : "${aws_s3_bucket.main[bucket].arn}/*"]
    }
  }

  dynamic "statement" {
    for_each = length(each.value.write) > 0 ? [1] : []

    content {
      sid       = "Encrypt"
      actions   = ["kms:GenerateDataKey"]
      resources = [aws_kms_key.main["objects"].arn]
    }
  }
}

resource "aws_iam_role_policy" "service_account" {
  for_each = data.aws_iam_policy_document.service_account
  name     = "objects"
  role     = aws_iam_role.service_account[each.key].id
  policy   = each.value.json
}

data "aws_iam_policy_document" "external_secrets" {
  statement {
    actions = ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"]
    resources = concat(
      [for user in local.workloads : aws_secretsmanager_secret.kafka[user].arn],
      [aws_secretsmanager_secret.pseudonym_key.arn, aws_db_instance.main.master_user_secret[0].secret_arn],
    )
  }

  statement {
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.main["secrets"].arn, aws_kms_key.main["database"].arn]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["secretsmanager.${var.region}.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy" "external_secrets" {
  name   = "read-secrets"
  role   = aws_iam_role.service_account["external-secrets"].id
  policy = data.aws_iam_policy_document.external_secrets.json
}

# Delivery: GitHub's workflows come with a token of their own, and no key is kept anywhere.

resource "aws_iam_openid_connect_provider" "github" {
  count          = var.github_oidc_provider_arn == null ? 1 : 0
  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}

locals {
  github_provider = coalesce(var.github_oidc_provider_arn, one(aws_iam_openid_connect_provider.github[*].arn))

  # What a token must say: images come from the main branch, deployments from the protected environment.
  github_subjects = {
    publish = "repo:${var.github_repository}:ref:refs/heads/main"
    deploy  = "repo:${var.github_repository}:environment:production"
  }
}

data "aws_iam_policy_document" "github_trust" {
  for_each = local.github_subjects

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [local.github_provider]
    }

    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:aud"
      values   = ["sts.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:sub"
      values   = [each.value]
    }
  }
}

resource "aws_iam_role" "github" {
  for_each             = local.github_subjects
  name                 = "${local.name}-${each.key}"
  assume_role_policy   = data.aws_iam_policy_document.github_trust[each.key].json
  max_session_duration = 3600
}

data "aws_iam_policy_document" "publish" {
  #checkov:skip=CKV_AWS_356:ecr:GetAuthorizationToken knows no resource
  statement {
    sid       = "LogIn"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid = "Push"
    actions = [
      "ecr:BatchCheckLayerAvailability",
      "ecr:BatchGetImage",
      "ecr:CompleteLayerUpload",
      "ecr:DescribeImages",
      "ecr:GetDownloadUrlForLayer",
      "ecr:InitiateLayerUpload",
      "ecr:PutImage",
      "ecr:UploadLayerPart",
    ]
    resources = [for repository in aws_ecr_repository.main : repository.arn]
  }
}

resource "aws_iam_role_policy" "publish" {
  name   = "push-images"
  role   = aws_iam_role.github["publish"].id
  policy = data.aws_iam_policy_document.publish.json
}

data "aws_iam_policy_document" "deploy" {
  statement {
    actions   = ["eks:DescribeCluster"]
    resources = [aws_eks_cluster.main.arn]
  }
}

resource "aws_iam_role_policy" "deploy" {
  name   = "find-cluster"
  role   = aws_iam_role.github["deploy"].id
  policy = data.aws_iam_policy_document.deploy.json
}
