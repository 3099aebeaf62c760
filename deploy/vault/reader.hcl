# What `broker exec` needs: to read the secrets of one project's one stage, in a KV engine of version 2 at `secret/`.
# The version before the current one needs nothing more.
path "secret/data/shop/dev/*" {
  capabilities = ["read"]
}
