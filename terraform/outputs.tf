output "cluster_name" {
  description = "The EKS cluster's name."
  value       = aws_eks_cluster.main.name
}

output "image_repositories" {
  description = "By image, the repository it is pushed to."
  value       = { for image, repository in aws_ecr_repository.main : image => repository.repository_url }
}

output "kafka_bootstrap_servers" {
  description = "The brokers for users with a password (SASL_SSL, SCRAM-SHA-512)."
  value       = aws_msk_cluster.main.bootstrap_brokers_sasl_scram
}

output "kafka_secrets" {
  description = "By Kafka user, the secret that has its password."
  value       = { for user, secret in aws_secretsmanager_secret.kafka : user => secret.name }
}

output "database_endpoint" {
  description = "The database's address, host:port; connections need sslmode=verify-full."
  value       = aws_db_instance.main.endpoint
}

output "database_secret_arn" {
  description = "The secret with the database's master user, whose password RDS rotates."
  value       = aws_db_instance.main.master_user_secret[0].secret_arn
}

output "pseudonym_key_secret" {
  description = "The secret with the pseudonym key."
  value       = aws_secretsmanager_secret.pseudonym_key.name
}

output "buckets" {
  description = "By purpose, the bucket's name."
  value       = { for purpose, bucket in aws_s3_bucket.main : purpose => bucket.bucket }
}

output "service_account_role_arns" {
  description = "By service account, the role for its annotation eks.amazonaws.com/role-arn."
  value       = { for account, role in aws_iam_role.service_account : account => role.arn }
}

output "github_role_arns" {
  description = "The roles of the workflows: publish pushes images, deploy applies manifests."
  value       = { for purpose, role in aws_iam_role.github : purpose => role.arn }
}
