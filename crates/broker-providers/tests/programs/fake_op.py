#!/usr/bin/python3 -I
"""A stand-in for 1Password's `op` 2: `op read [--no-newline] op://VAULT/ITEM/FIELD`, from a JSON file beside it.

Spoken as documented (developer.1password.com/docs/cli/reference/commands/read): the value on standard output, with a
newline unless told otherwise; failures on standard error, `[ERROR] DATE TIME could not read secret ...`, status 1. The
wordings are those that users of version 2.34 to 2.39 report. What it can't show: the real sign-in, the desktop app, other
versions' wordings, sections, files, `?attribute=`, and how `op` itself treats a value that is no text.
"""
import json
import os
import sys

here = os.path.dirname(os.path.abspath(sys.argv[0]))
with open(os.path.join(here, "op-calls"), "a") as calls:
    calls.write("\0".join(sys.argv[1:]) + "\n")
with open(os.path.join(here, "op.json")) as file:
    vaults = json.load(file)


def fail(reference, why):
    sys.exit(f"[ERROR] 2026/11/22 10:00:00 could not read secret '{reference}': {why}")


arguments = sys.argv[1:]
if arguments[:1] != ["read"]:
    sys.exit(f'[ERROR] 2026/11/22 10:00:00 unknown command "{" ".join(arguments[:1])}" for "op"')
flags = [word for word in arguments[1:] if word.startswith("-")]
(reference,) = [word for word in arguments[1:] if not word.startswith("-")]
if not os.environ.get("OP_SERVICE_ACCOUNT_TOKEN", "").startswith("ops_"):
    fail(reference, "error initializing client: account is not signed in")
parts = reference.removeprefix("op://").split("/")
if not reference.startswith("op://") or not 3 <= len(parts) <= 4:
    fail(reference, "too many '/': secret references should match op://<vault>/<item>[/<section>]/<field>")
vault, item, field = parts[0], parts[1], parts[-1]
if vault not in vaults:
    fail(reference, f'could not get item {vault}/{item}: "{vault}" isn\'t a vault in this account. Specify the vault with its ID or name.')
if item == "limited":
    fail(reference, "(429) Too Many Requests: you've reached the rate limit")
if item not in vaults[vault]:
    fail(reference, f'could not get item {vault}/{item}: "{item}" isn\'t an item in the "{vault}" vault. Specify the item with its UUID, name, or domain.')
if field not in vaults[vault][item]:
    fail(reference, f"item '{vault}/{item}' does not have a field '{field}'")
sys.stdout.write(vaults[vault][item][field] + ("" if "--no-newline" in flags or "-n" in flags else "\n"))
