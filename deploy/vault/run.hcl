# What a sign-in needs besides what its runs read: to make a token for each of them, with no more than its own policies.
path "auth/token/create" {
  capabilities = ["update"]
}
