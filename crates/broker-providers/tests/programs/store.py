#!/usr/bin/python3 -I
"""A store of files for the contract suite: what an `exec` program can do at most.

Started as `store.py DIRECTORY`. One directory per secret, named by the hex of its path; one file per version, named by
its number. It knows no locking: the suite asks one thing after the other.
"""
import base64
import json
import os
import shutil
import sys

root = sys.argv[1]
request = json.load(sys.stdin)


class Problem(Exception):
    pass


def place(path):
    # Hex doubles a name, and a file's name ends at 255 bytes.
    text = path.encode().hex()
    return os.path.join(root, *[text[i : i + 200] for i in range(0, len(text), 200)], "v")


def versions(path):
    try:
        return sorted(int(name) for name in os.listdir(place(path)))
    except FileNotFoundError:
        raise Problem("not-found") from None


def read(asked):
    known = versions(asked["path"])
    if asked.get("stage") == "pending" or (asked.get("stage") == "previous" and len(known) < 2):
        raise Problem("not-found")
    wanted = asked.get("version") or str(known[-2] if asked.get("stage") else known[-1])
    if wanted not in map(str, known):
        raise Problem("not-found")
    with open(os.path.join(place(asked["path"]), wanted), "rb") as file:
        return {"base64": base64.b64encode(file.read()).decode(), "version": wanted}


def result(asked):
    try:
        return {"id": asked["id"], **read(asked)}
    except Problem as problem:
        return {"id": asked["id"], "error": str(problem)}


def put():
    where = place(request["path"])
    os.makedirs(where, exist_ok=True)
    number = max(map(int, os.listdir(where)), default=0) + 1
    with open(os.path.join(where, str(number)), "wb") as file:
        file.write(base64.b64decode(request["value"]))
    return {"version": str(number)}


def delete():
    versions(request["path"])
    shutil.rmtree(place(request["path"]))
    return {}


def entries():
    for where, _, files in os.walk(root):
        if files:
            path = bytes.fromhex(os.path.relpath(os.path.dirname(where), root).replace("/", "")).decode()
            yield {"path": path, "version": str(versions(path)[-1])}


def describe():
    known = versions(request["path"])
    stages = {known[-1]: ["current"]} | ({known[-2]: ["previous"]} if len(known) > 1 else {})
    history = [{"version": str(number), "stages": stages.get(number, [])} for number in reversed(known)]
    changed = int(os.stat(os.path.join(place(request["path"]), str(known[-1]))).st_mtime)
    return {"changed": changed, "history": history}


OPERATIONS = {
    "fetch": lambda: {"results": [result(asked) for asked in request["references"]]},
    "put": put,
    "delete": delete,
    "list": lambda: {"entries": list(entries())},
    "describe": describe,
}

if request["operation"] == "capabilities":
    answer = {"operations": list(OPERATIONS), "versions": True, "stages": ["previous"]}
else:
    try:
        answer = OPERATIONS[request["operation"]]()
    except Problem as problem:
        answer = {"error": str(problem)}
json.dump({"broker": 1, **answer}, sys.stdout)
