# One repository for each target of the Dockerfile. A tag is a commit and never moves.

locals {
  images = toset(["worker", "api", "trainer"])
}

resource "aws_ecr_repository" "main" {
  for_each             = local.images
  name                 = "${local.name}/${each.value}"
  image_tag_mutability = "IMMUTABLE"

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = aws_kms_key.main["objects"].arn
  }
}

resource "aws_ecr_lifecycle_policy" "main" {
  for_each   = local.images
  repository = aws_ecr_repository.main[each.value].name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Keep the last 50 images"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 50 }
      action       = { type = "expire" }
    }]
  })
}
