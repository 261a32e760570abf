# What test_terraform.py applies: every kind of Event Grid resource of this server that
# the azurerm provider has. The address of the server and who signs in come from
# ARM_METADATA_HOSTNAME, ARM_TENANT_ID, ARM_CLIENT_ID and ARM_CLIENT_SECRET.
terraform {
  required_providers {
    azurerm = {
      source = "hashicorp/azurerm"
    }
  }
}

provider "azurerm" {
  features {}
  resource_provider_registrations = var.registrations
  subscription_id                 = "00000000-0000-0000-0000-000000000001"
}

variable "registrations" {
  default = "none"
}

variable "webhook" {
  description = "URL of a webhook, with a secret in its query."
}

variable "workspace" {
  description = "Id of a workspace."
}

variable "reader" {
  description = "Object id of a service principal that may read the resource group."
}

variable "team" {
  default = "growth"
}

variable "subject" {
  default = "orders/"
}

resource "azurerm_resource_group" "shop" {
  name     = "terraform"
  location = "local"
  tags     = { team = var.team }
}

resource "azurerm_eventgrid_topic" "orders" {
  name                = "orders"
  location            = azurerm_resource_group.shop.location
  resource_group_name = azurerm_resource_group.shop.name
  inbound_ip_rule     = [{ ip_mask = "127.0.0.0/8", action = "Allow" }]
  tags                = { team = var.team }
}

resource "azurerm_eventgrid_topic" "custom" {
  name                = "custom"
  location            = azurerm_resource_group.shop.location
  resource_group_name = azurerm_resource_group.shop.name
  input_schema        = "CustomEventSchema"
  local_auth_enabled  = false
  input_mapping_fields {
    id         = "trackingId"
    event_type = "kind"
  }
  input_mapping_default_values {
    subject      = "none"
    data_version = "1.0"
  }
}

resource "azurerm_eventgrid_event_subscription" "orders" {
  name                                 = "es-orders"
  scope                                = azurerm_eventgrid_topic.orders.id
  event_delivery_schema                = "CloudEventSchemaV1_0"
  included_event_types                 = ["Shop.OrderPlaced", "Shop.OrderPaid"]
  labels                               = ["one", "two"]
  expiration_time_utc                  = "2099-05-05T00:00:00Z"
  advanced_filtering_on_arrays_enabled = true

  webhook_endpoint {
    url                               = var.webhook
    max_events_per_batch              = 10
    preferred_batch_size_in_kilobytes = 128
  }
  subject_filter {
    subject_begins_with = var.subject
    subject_ends_with   = "/1"
    case_sensitive      = true
  }
  advanced_filter {
    number_in {
      key    = "data.number"
      values = [1, 2.5]
    }
    number_in_range {
      key    = "data.number"
      values = [[1, 2], [3, 4]]
    }
    string_not_begins_with {
      key    = "data.color"
      values = ["b"]
    }
    bool_equals {
      key   = "data.ok"
      value = true
    }
    is_null_or_undefined {
      key = "data.gone"
    }
  }
  retry_policy {
    max_delivery_attempts = 5
    event_time_to_live    = 60
  }
  delivery_property {
    header_name = "X-Static"
    type        = "Static"
    value       = "visible"
    secret      = false
  }
  delivery_property {
    header_name  = "X-Dynamic"
    type         = "Dynamic"
    source_field = "data.color"
  }
}

resource "azurerm_eventgrid_event_subscription" "plain" {
  name  = "es-plain"
  scope = azurerm_eventgrid_topic.custom.id
  webhook_endpoint {
    url                               = var.webhook
    max_events_per_batch              = 1  # what Event Grid answers where nothing is said:
    preferred_batch_size_in_kilobytes = 64 # the provider takes it for a difference
  }
}

resource "azurerm_eventgrid_domain" "shops" {
  name                                      = "shops"
  location                                  = azurerm_resource_group.shop.location
  resource_group_name                       = azurerm_resource_group.shop.name
  auto_create_topic_with_first_subscription = false
  tags                                      = { team = var.team }
}

resource "azurerm_eventgrid_domain_topic" "berlin" {
  name                = "berlin"
  domain_name         = azurerm_eventgrid_domain.shops.name
  resource_group_name = azurerm_resource_group.shop.name
}

resource "azurerm_eventgrid_event_subscription" "berlin" {
  name   = "es-berlin"
  scope  = azurerm_eventgrid_domain_topic.berlin.id
  labels = [var.team]
  webhook_endpoint {
    url                               = var.webhook
    max_events_per_batch              = 1
    preferred_batch_size_in_kilobytes = 64
  }
}

resource "azurerm_eventgrid_system_topic" "runs" {
  name                = "runs"
  location            = "local"
  resource_group_name = azurerm_resource_group.shop.name
  source_resource_id  = var.workspace
  topic_type          = "Microsoft.MachineLearningServices.Workspaces"
  tags                = { team = var.team }
}

resource "azurerm_eventgrid_system_topic_event_subscription" "failed" {
  name                 = "es-failed"
  system_topic         = azurerm_eventgrid_system_topic.runs.name
  resource_group_name  = azurerm_resource_group.shop.name
  included_event_types = ["Microsoft.MachineLearningServices.RunStatusChanged"]
  labels               = [var.team]
  webhook_endpoint {
    url                               = var.webhook
    max_events_per_batch              = 1  # what Event Grid answers where nothing is said:
    preferred_batch_size_in_kilobytes = 64 # the provider takes it for a difference
  }
}

resource "azurerm_role_assignment" "reader" {
  scope                            = azurerm_resource_group.shop.id
  role_definition_name             = "Reader"
  principal_id                     = var.reader
  principal_type                   = "ServicePrincipal"
  skip_service_principal_aad_check = true
}

data "azurerm_eventgrid_topic" "orders" {
  name                = azurerm_eventgrid_topic.orders.name
  resource_group_name = azurerm_resource_group.shop.name
}

output "endpoint" {
  value = data.azurerm_eventgrid_topic.orders.endpoint
}
