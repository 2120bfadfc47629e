# Which topics there are, who uses Kafka, and which access rules they have. Nothing but values, which
# tests/deploy/test_access.py has Terraform reckon out and judges.

locals {
  # Both files are what the programs read; nothing of them is written here again.
  institutions = yamldecode(file("${path.module}/../schemas/institutions.yaml")).institutions
  topics       = jsondecode(file("${path.module}/../schemas/topics.json"))

  workloads = toset(["worker", "trainer", "api"])
  kafka_users = setunion(
    local.workloads,
    ["operator"],
    flatten([for id in keys(local.institutions) : ["institution-${id}", "alerting-${id}", "trainer-${id}"]]),
  )

  # Each rule: who may do which operation on which topic or group.
  institution_rules = flatten([
    for id in keys(local.institutions) : concat(
      [for name, topic in local.topics : { user = "institution-${id}", operation = "Write", type = "Topic", name = name } if topic.institution == id && topic.family == "encounters"],
      [for name, topic in local.topics : { user = "institution-${id}", operation = "Read", type = "Topic", name = name } if topic.institution == id && contains(["risk", "rejected"], topic.family)],
      [for name, topic in local.topics : { user = "alerting-${id}", operation = "Read", type = "Topic", name = name } if topic.institution == id && topic.family == "risk"],
      [for name, topic in local.topics : { user = "trainer-${id}", operation = "Read", type = "Topic", name = name } if topic.institution == id && topic.family == "features"],
    )
  ])

  workload_rules = flatten([
    for name, topic in local.topics : [
      for rule in [
        { user = "worker", operation = "Read", families = ["encounters"] },
        { user = "worker", operation = "Write", families = ["risk", "features", "rejected"] },
        { user = "trainer", operation = "Read", families = ["features"] },
        { user = "api", operation = "Write", families = ["encounters"] },
        { user = "operator", operation = "Read", families = ["encounters", "risk", "features", "rejected"] },
        { user = "operator", operation = "Write", families = ["encounters"] },
      ] : { user = rule.user, operation = rule.operation, type = "Topic", name = name } if contains(rule.families, topic.family)
    ]
  ])

  # Reading needs a consumer group; an institution has those whose names begin with its id and a full stop. Whoever commits
  # nothing only names one.
  group_rules = concat(
    [{ user = "worker", operation = "Read", type = "Group", name = "healthalliance-worker", pattern = "Literal" }],
    [for user in concat(["trainer", "operator"], [for id in keys(local.institutions) : "trainer-${id}"]) : { user = user, operation = "Describe", type = "Group", name = "healthalliance-ranges", pattern = "Literal" }],
    [{ user = "operator", operation = "Describe", type = "Group", name = "healthalliance-worker", pattern = "Literal" }],
    [for id in keys(local.institutions) : { user = "institution-${id}", operation = "Read", type = "Group", name = "${id}.", pattern = "Prefixed" }],
    [for id in keys(local.institutions) : { user = "alerting-${id}", operation = "Read", type = "Group", name = "healthalliance-alerts.${id}.", pattern = "Prefixed" }],
  )

  access_rules = {
    for rule in concat([for rule in concat(local.institution_rules, local.workload_rules) : merge(rule, { pattern = "Literal" })], local.group_rules) :
    "${rule.user} ${rule.operation} ${rule.type} ${rule.name}" => rule
  }
}
