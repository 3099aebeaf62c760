# What `broker exec` needs in a KV engine of version 1 at `secret/`.
path "secret/shop/dev/*" {
  capabilities = ["read"]
}
