#!/bin/sh
# Lets one person, group or application read single secrets of a vault, and nothing else.
#
#   grant.sh VAULT OBJECT_ID SECRET...
#
# The vault must decide by roles (`az keyvault update --enable-rbac-authorization true --name VAULT`).
set -eu
vault=$1 object=$2
shift 2
scope=$(az keyvault show --name "$vault" --query id --output tsv)
for secret in "$@"; do
    az role assignment create --role "Key Vault Secrets User" --assignee "$object" --scope "$scope/secrets/$secret"
done
