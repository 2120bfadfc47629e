# The cluster: its control plane is private, its nodes are in the private subnets.

resource "aws_cloudwatch_log_group" "cluster" {
  name              = "/aws/eks/${local.name}-eks-cluster/cluster"
  kms_key_id        = aws_kms_key.main["logs"].arn
  retention_in_days = var.log_days
}

resource "aws_eks_cluster" "main" {
  #checkov:skip=CKV_AWS_38:the public endpoint is off unless api_public_cidrs names who may use it, and that never is the whole internet
  #checkov:skip=CKV_AWS_39:as above
  name                      = "${local.name}-eks-cluster"
  version                   = var.kubernetes_version
  role_arn                  = aws_iam_role.service["cluster"].arn
  enabled_cluster_log_types = ["api", "audit", "authenticator", "controllerManager", "scheduler"]
  deletion_protection       = true

  access_config {
    authentication_mode                         = "API"
    bootstrap_cluster_creator_admin_permissions = false
  }

  vpc_config {
    subnet_ids              = aws_subnet.private[*].id
    endpoint_private_access = true
    endpoint_public_access  = length(var.api_public_cidrs) > 0
    public_access_cidrs     = length(var.api_public_cidrs) > 0 ? var.api_public_cidrs : null
  }

  encryption_config {
    resources = ["secrets"]

    provider {
      key_arn = aws_kms_key.main["cluster"].arn
    }
  }

  depends_on = [aws_iam_role_policy_attachment.service, aws_cloudwatch_log_group.cluster]
}

# The node's own role is out of the pods' reach: the metadata service answers no hop further.
resource "aws_launch_template" "nodes" {
  name_prefix = "${local.name}-nodes-"

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type = "gp3"
      volume_size = 80
      encrypted   = true
    }
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  monitoring {
    enabled = true
  }

  tag_specifications {
    resource_type = "instance"
    tags          = merge(local.tags, { Name = "${local.name}-node" })
  }

  tag_specifications {
    resource_type = "volume"
    tags          = merge(local.tags, { Name = "${local.name}-node" })
  }
}

resource "aws_eks_node_group" "main" {
  cluster_name    = aws_eks_cluster.main.name
  node_group_name = "${local.name}-nodes"
  node_role_arn   = aws_iam_role.service["nodes"].arn
  subnet_ids      = aws_subnet.private[*].id
  ami_type        = "AL2023_x86_64_STANDARD"
  instance_types  = [local.size.node_type]

  launch_template {
    id      = aws_launch_template.nodes.id
    version = aws_launch_template.nodes.latest_version
  }

  scaling_config {
    min_size     = local.size.nodes
    desired_size = local.size.nodes
    max_size     = local.size.nodes_max
  }

  update_config {
    max_unavailable = 1
  }

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size] # the cluster's own autoscaler sets it
  }

  depends_on = [aws_iam_role_policy_attachment.service, aws_eks_addon.before_nodes]
}

resource "aws_eks_addon" "before_nodes" {
  for_each                    = toset(["vpc-cni", "kube-proxy"])
  cluster_name                = aws_eks_cluster.main.name
  addon_name                  = each.value
  resolve_conflicts_on_update = "OVERWRITE"
  service_account_role_arn    = each.value == "vpc-cni" ? aws_iam_role.service_account["vpc-cni"].arn : null
  configuration_values        = each.value == "vpc-cni" ? jsonencode({ enableNetworkPolicy = "true" }) : null
  depends_on                  = [aws_iam_role_policy_attachment.service_account]
}

resource "aws_eks_addon" "after_nodes" {
  for_each                    = toset(["coredns", "aws-ebs-csi-driver", "metrics-server"])
  cluster_name                = aws_eks_cluster.main.name
  addon_name                  = each.value
  resolve_conflicts_on_update = "OVERWRITE"
  service_account_role_arn    = each.value == "aws-ebs-csi-driver" ? aws_iam_role.service_account["ebs-csi"].arn : null
  depends_on                  = [aws_eks_node_group.main, aws_iam_role_policy_attachment.service_account]
}

# Who may use the cluster. The deploying role changes what is in the project's namespace; its group is for what the
# policy leaves out, the custom resources, and is bound in k8s.

resource "aws_eks_access_entry" "deploy" {
  cluster_name      = aws_eks_cluster.main.name
  principal_arn     = aws_iam_role.github["deploy"].arn
  kubernetes_groups = ["${local.name}-deployers"]
}

resource "aws_eks_access_policy_association" "deploy" {
  cluster_name  = aws_eks_cluster.main.name
  principal_arn = aws_eks_access_entry.deploy.principal_arn
  policy_arn    = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSEditPolicy"

  access_scope {
    type       = "namespace"
    namespaces = [local.name]
  }
}

resource "aws_eks_access_entry" "administrators" {
  for_each      = var.cluster_admin_role_arns
  cluster_name  = aws_eks_cluster.main.name
  principal_arn = each.value
}

resource "aws_eks_access_policy_association" "administrators" {
  for_each      = var.cluster_admin_role_arns
  cluster_name  = aws_eks_cluster.main.name
  principal_arn = aws_eks_access_entry.administrators[each.value].principal_arn
  policy_arn    = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"

  access_scope {
    type = "cluster"
  }
}
