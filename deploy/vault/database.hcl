# What `broker exec` needs for the accounts of one role of a database engine at `database/`.
path "database/creds/shop-dev" {
  capabilities = ["read"]
}
