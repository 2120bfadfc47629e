variable "account_id" {
  description = "The AWS account to apply to; any other is refused."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id is twelve digits."
  }
}

variable "region" {
  description = "The AWS region. Patients' data stays in it."
  type        = string
  default     = "eu-central-1"

  validation {
    condition     = contains(["eu-central-1", "eu-central-2"], var.region)
    error_message = "Patients' data stays in an eu-central region."
  }
}

variable "environment" {
  description = "What the account is for; a tag."
  type        = string
  default     = "production"

  validation {
    condition     = contains(["production", "staging"], var.environment)
    error_message = "environment is production or staging."
  }
}

variable "size" {
  description = "How large brokers, database and nodes are: small, medium or large. docs/costs.md has their prices."
  type        = string
  default     = "small"

  validation {
    condition     = contains(["small", "medium", "large"], var.size)
    error_message = "size is small, medium or large."
  }
}

variable "github_repository" {
  description = "The repository whose workflows publish images and deploy, as owner/name."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.github_repository))
    error_message = "github_repository is owner/name."
  }
}

variable "github_oidc_provider_arn" {
  description = "The account's identity provider for GitHub Actions; null makes one."
  type        = string
  default     = null

  validation {
    condition     = var.github_oidc_provider_arn == null || can(regex("^arn:aws:iam::[0-9]{12}:oidc-provider/", var.github_oidc_provider_arn))
    error_message = "github_oidc_provider_arn is the ARN of an OIDC provider, or null."
  }
}

variable "cluster_admin_role_arns" {
  description = "IAM roles of the people who administer the cluster."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.cluster_admin_role_arns : can(regex("^arn:aws:iam::[0-9]{12}:role/", arn))])
    error_message = "cluster_admin_role_arns are ARNs of IAM roles."
  }
}

variable "api_public_cidrs" {
  description = "Addresses from which the cluster's control plane is reached besides the VPC; none: by the VPC alone."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.api_public_cidrs : can(cidrhost(cidr, 0)) && !endswith(cidr, "/0")])
    error_message = "api_public_cidrs are CIDR blocks, and not the whole internet."
  }
}

variable "operator_cidrs" {
  description = "Private networks from which people and the deploying runner reach control plane and brokers (VPN, peering)."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.operator_cidrs : can(cidrhost(cidr, 0)) && !endswith(cidr, "/0")])
    error_message = "operator_cidrs are CIDR blocks, and not the whole internet."
  }
}

variable "institution_cidrs" {
  description = "By institution, the private networks from which it reaches the brokers (VPN, Direct Connect)."
  type        = map(list(string))
  default     = {}

  validation {
    condition     = alltrue([for id in keys(var.institution_cidrs) : contains(keys(local.institutions), id)])
    error_message = "institution_cidrs names an institution that schemas/institutions.yaml does not have."
  }

  validation {
    condition     = alltrue([for cidr in flatten(values(var.institution_cidrs)) : can(cidrhost(cidr, 0)) && !endswith(cidr, "/0")])
    error_message = "institution_cidrs are CIDR blocks, and not the whole internet."
  }
}

variable "kafka_reachable" {
  description = "Whether this machine reaches the brokers, which are private: false at the first apply, then true for topics and access rules."
  type        = bool
  default     = false
}

variable "vpc_cidr" {
  description = "The VPC's address block, /16 to /20."
  type        = string
  default     = "10.40.0.0/16"

  validation {
    condition     = can(regex("/(16|17|18|19|20)$", var.vpc_cidr)) && can(cidrhost(var.vpc_cidr, 0))
    error_message = "vpc_cidr is a block of /16 to /20."
  }
}

variable "kubernetes_version" {
  description = "The cluster's Kubernetes version; see that it is still in standard support."
  type        = string
  default     = "1.34"

  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.kubernetes_version))
    error_message = "kubernetes_version is like 1.34."
  }
}

variable "kafka_version" {
  description = "The brokers' Apache Kafka version."
  type        = string
  default     = "3.9.x"

  validation {
    condition     = can(regex("^[3-9]\\.[0-9]+\\.(x|[0-9]+)$", var.kafka_version))
    error_message = "kafka_version is like 3.9.x."
  }
}

variable "postgres_version" {
  description = "PostgreSQL's major version; its minor versions are installed in the maintenance window."
  type        = string
  default     = "17"

  validation {
    condition     = can(regex("^1[5-9]$", var.postgres_version))
    error_message = "postgres_version is a major version of 15 or later."
  }
}

variable "backup_days" {
  description = "Days back to any second of which the database can be restored."
  type        = number
  default     = 35

  validation {
    condition     = var.backup_days >= 7 && var.backup_days <= 35
    error_message = "backup_days is 7 to 35."
  }
}

variable "log_days" {
  description = "Days that logs are kept."
  type        = number
  default     = 365

  validation {
    condition     = contains([365, 400, 545, 731, 1096, 1827], var.log_days)
    error_message = "log_days is a retention of CloudWatch of a year or more."
  }
}

variable "tags" {
  description = "Tags beside those of the project, such as a cost centre."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(setintersection(keys(var.tags), ["Project", "Environment", "ManagedBy", "Data"])) == 0
    error_message = "tags must not set the project's own: Project, Environment, ManagedBy, Data."
  }
}
