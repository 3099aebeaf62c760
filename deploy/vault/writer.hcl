# What `broker secret set`, `list`, `history` and `rm` need, in a KV engine of version 2 at `secret/`.
path "secret/data/shop/dev/*" {
  capabilities = ["create", "read", "update"]
}

# Versions and their times, listings, and removing a secret with all its versions.
path "secret/metadata/shop/dev/*" {
  capabilities = ["read", "list", "delete"]
}
