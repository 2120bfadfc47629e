# Snapshots of features (DVC) and models with their reports (MLflow).

locals {
  buckets = toset(["dvc", "mlflow"])
}

resource "aws_s3_bucket" "main" {
  #checkov:skip=CKV_AWS_18:who reads an object is told by the account's CloudTrail data events, which docs/aws.md asks for
  #checkov:skip=CKV_AWS_144:patients' data, pseudonymous as it is, stays in the region; versions and the features topics are the second copy
  #checkov:skip=CKV2_AWS_62:nothing waits for an object to arrive
  for_each = local.buckets
  bucket   = "${local.name}-${each.value}-${var.account_id}"

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_public_access_block" "main" {
  for_each                = local.buckets
  bucket                  = aws_s3_bucket.main[each.value].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "main" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.main[each.value].id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_versioning" "main" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.main[each.value].id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "main" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.main[each.value].id

  rule {
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.main["objects"].arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "main" {
  for_each   = local.buckets
  bucket     = aws_s3_bucket.main[each.value].id
  depends_on = [aws_s3_bucket_versioning.main]

  rule {
    id     = "old-versions-and-broken-uploads"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = 90
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  rule {
    id     = "seldom-read"
    status = "Enabled"

    filter {}

    transition {
      days          = 90
      storage_class = "STANDARD_IA"
    }
  }
}

data "aws_iam_policy_document" "bucket" {
  for_each = local.buckets

  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.main[each.value].arn, "${aws_s3_bucket.main[each.value].arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "main" {
  for_each   = local.buckets
  bucket     = aws_s3_bucket.main[each.value].id
  policy     = data.aws_iam_policy_document.bucket[each.value].json
  depends_on = [aws_s3_bucket_public_access_block.main]
}
