# HealthAlliance on AWS: docs/aws.md says in which order to apply it and what is not proven.

terraform {
  required_version = ">= 1.11.0" # write-only arguments keep passwords out of the state; S3 locks the state by itself

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.25"
    }
    kafka = {
      source  = "Mongey/kafka"
      version = "~> 0.13"
    }
    random = {
      source  = "hashicorp/random"
      version = "~> 3.7"
    }
  }

  # The bucket is named at `terraform init -backend-config=backend.hcl`; backend.hcl.example shows how.
  backend "s3" {
    key          = "healthalliance/terraform.tfstate"
    region       = "eu-central-1"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region              = var.region
  allowed_account_ids = [var.account_id]

  default_tags {
    tags = local.tags
  }
}

provider "kafka" {
  bootstrap_servers = split(",", aws_msk_cluster.main.bootstrap_brokers_sasl_iam)
  tls_enabled       = true
  sasl_mechanism    = "aws-iam"
  sasl_aws_region   = var.region
}

locals {
  name = "healthalliance"

  zones = [for letter in ["a", "b", "c"] : "${var.region}${letter}"]
  size  = local.sizes[var.size]

  # What docs/costs.md reckons with; tests/deploy/test_costs.py compares them.
  sizes = {
    small = {
      broker_type   = "kafka.m7g.large"
      broker_gib    = 100
      database_type = "db.t4g.medium"
      database_gib  = 50
      node_type     = "m7i.large"
      nodes         = 3
      nodes_max     = 5
      nat_gateways  = 1
      partitions    = 4
    }
    medium = {
      broker_type   = "kafka.m7g.large"
      broker_gib    = 250
      database_type = "db.m7g.large"
      database_gib  = 200
      node_type     = "m7i.xlarge"
      nodes         = 3
      nodes_max     = 8
      nat_gateways  = 3
      partitions    = 8
    }
    large = {
      broker_type   = "kafka.m7g.xlarge"
      broker_gib    = 1000
      database_type = "db.r7g.xlarge"
      database_gib  = 500
      node_type     = "m7i.2xlarge"
      nodes         = 6
      nodes_max     = 12
      nat_gateways  = 3
      partitions    = 16
    }
  }

  tags = merge(var.tags, {
    Project     = local.name
    Environment = var.environment
    ManagedBy   = "terraform"
    Data        = "health"
  })
}
