"""A program that needs two secrets. It connects to nothing; it shows that it has them without showing them."""

import hashlib
import os
import sys

for name in ("DATABASE_URL", "STRIPE_KEY"):
    value = os.environb.get(name.encode())
    if value is None:
        sys.exit(f"{name} is not set: start me with `broker exec -- python3 app.py`")
    print(f"{name:<13} {len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()[:12]}...")
print(f"{'PORT':<13} {os.environ.get('PORT', 'not set')}")
