"""A stand-in for wandb's server: it takes what wandb uploads and remembers it."""

from __future__ import annotations

import gzip
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef01234567"
ENTITY = "somebody"


@dataclass
class Run:
    """One run as the server has it."""

    upserts: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, dict[int, Any]] = field(default_factory=dict)
    """Lines of the streamed files by their number."""
    exits: list[int] = field(default_factory=list)
    uploads: set[str] = field(default_factory=set)
    """Names of the files that were put."""

    @property
    def config(self) -> dict[str, Any]:
        told = [json.loads(upsert["config"]) for upsert in self.upserts if upsert.get("config")]
        return {key: entry["value"] for key, entry in told[-1].items()}

    @property
    def group(self) -> str:
        return next(upsert["groupName"] for upsert in self.upserts if upsert.get("groupName"))

    @property
    def history(self) -> list[dict[str, Any]]:
        return [line for _, line in sorted(self.files.get("wandb-history.jsonl", {}).items())]

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.files.get("wandb-summary.json", {})
        return lines[max(lines)] if lines else {}

    def node(self, name: str) -> dict[str, Any]:
        """As a query has it."""
        return {
            "id": f"id-{name}",
            "name": name,
            "displayName": name,
            "projectId": "1",
            "state": {(): "running", (0,): "finished"}.get(tuple(self.exits), "failed"),
            "group": self.group,
            "historyLineCount": len(self.history),
            "historyKeys": {"lastStep": self.history[-1]["_step"] if self.history else -1},
            "user": {"name": ENTITY, "username": ENTITY},
            "config": self.upserts[-1].get("config") or "{}",
            "summaryMetrics": json.dumps(self.summary),
            "tags": [],
        }

    def resumed(self, name: str) -> dict[str, Any]:
        """As wandb asks for it before it goes on with it."""
        history = [json.dumps(line) for line in self.history[-1:]]
        return self.node(name) | {
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyTail": json.dumps(history),
            "eventsTail": "[]",
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }


class Server(ThreadingHTTPServer):
    """Answers what wandb asks; every run, artifact and report that was made is an attribute."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        """By their ids, with the names of the files that were put."""
        self.reports: dict[str, dict[str, Any]] = {}
        self.keys: set[str] = set()
        """Authorization headers."""
        self.unknown: list[str] = []
        """Operations that have no answer here."""
        self.refuses = ""
        """The operation that ends in an error."""
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process of wandb needs to talk to this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def versions(self, name: str) -> list[dict[str, Any]]:
        """The artifacts of one name, in the order they were made."""
        found = self.artifacts.values()
        return [artifact for artifact in found if artifact["artifactCollectionName"] == name]

    def handle_error(self, request: Any, address: Any) -> None:
        """A client that has ended hangs up; nothing else may go wrong."""
        if not isinstance(error := sys.exception(), ConnectionError):
            self.unknown.append(repr(error))

    def graphql(self, name: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to an operation."""
        if name == self.refuses:
            return None
        try:
            return getattr(self, f"on_{name[0].lower()}{name[1:]}")(given)
        except (AttributeError, LookupError) as error:
            self.unknown.append(f"{name} of {sorted(given)}: {error!r}")
            return None

    def on_viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "a@b", "flags": "{}"}
        more = {"name": ENTITY, "admin": False, "teams": {"edges": []}, "apiKeys": {"edges": []}}
        return {"viewer": viewer | more}

    on_getViewer = on_getDefaultEntity = on_viewer

    def on_serverFeaturesQuery(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def on_upsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["name"] or given["id"].removeprefix("id-")
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run())
        run.upserts.append(given)
        project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}}
        bucket = run.node(name) | {"project": project, "description": None, "sweepName": None}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def on_runResumeStatus(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        bucket = run.resumed(given["name"]) if run else None
        entity = {"id": "e", "name": ENTITY}
        return {"model": {"id": "p", "name": "p", "entity": entity, "bucket": bucket}}

    def on_runs(self, given: dict[str, Any]) -> dict[str, Any]:
        group = json.loads(given["filters"])["group"]
        nodes = [run.node(name) for name, run in self.runs.items() if run.group == group]
        runs = {
            "edges": [{"node": node, "cursor": node["id"]} for node in nodes],
            "pageInfo": {"endCursor": None, "hasNextPage": False},
        }
        project = {"internalId": "1", "runCount": len(nodes), "readOnly": False, "runs": runs}
        return {"project": project if self.runs else None}

    def on_run(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": self.runs[given["name"]].node(given["name"])}}

    on_runHistoryKeys = on_run

    def on_artifactType(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None, "artifactType": None}}

    def on_createArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        asked = given["input"]
        made = f"artifact{len(self.artifacts)}"
        self.artifacts[made] = asked | {"files": set()}
        made = {"id": made, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": made}}

    def on_createArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "f", "uploadUrl": f"{self.url}/put", "uploadHeaders": []}
        manifest = {"id": given["artifactID"], "file": file}
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    def on_createArtifactFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {
                "storagePath": f"{asked['artifactID']}/{asked['name']}",
                "uploadUrl": f"{self.url}/put/artifacts/{asked['artifactID']}/{asked['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": asked["artifactID"]},
            }
            for asked in given["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def on_commitArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}

    def on_createRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        self.runs[given["run"]].uploads |= {*given["files"]}
        files = [{"name": n, "uploadUrl": f"{self.url}/put/{n}"} for n in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def on_projectInternalId(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"internalId": "1"}}

    def on_getProjects(self, given: dict[str, Any]) -> dict[str, Any]:
        node = {"id": "p", "name": "miras-search", "entityName": ENTITY, "createdAt": "2026-01-01"}
        page = {"endCursor": None, "hasNextPage": False}
        edges = [{"node": node | {"isBenchmark": False, "user": None}, "cursor": "p"}]
        return {"models": {"edges": edges, "pageInfo": page}}

    def on_projectViews(self, given: dict[str, Any]) -> dict[str, Any]:
        edges = [{"node": report, "cursor": report["id"]} for report in self.reports.values()]
        page = {"endCursor": None, "hasNextPage": False}
        return {"project": {"allViews": {"edges": edges, "pageInfo": page}}}

    def on_upsertView(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["id"] or f"report{len(self.reports)}"
        project = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
        self.reports[name] = given | {"id": name, "type": "runs", "project": project}
        self.reports[name] |= {"updatedAt": "2026-01-01T00:00:00Z", "user": None}
        return {"upsertView": {"view": self.reports[name], "inserted": given["id"] is None}}

    def stream(self, name: str, told: dict[str, Any]) -> None:
        """Take lines of streamed files, and the end of a run."""
        run = self.runs[name]
        for file, chunk in (told.get("files") or {}).items():
            lines = run.files.setdefault(file, {})
            for i, line in enumerate(chunk["content"], start=chunk["offset"]):
                lines[i] = json.loads(line) if file.endswith(("json", "jsonl")) else line
        if told.get("complete"):
            run.exits.append(told["exitcode"])


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        status, answer = 200, {}
        with self.server.lock:
            self.server.keys.add(self.headers.get("Authorization", ""))
            if self.path == "/graphql":
                asked = json.loads(body)
                named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                assert named, asked["query"]
                data = self.server.graphql(named[1], asked.get("variables") or {})
                if data is None:
                    status, answer = 400, {"errors": [{"message": "refused by the stand-in"}]}
                else:
                    answer = {"data": data}
            elif streamed := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                self.server.stream(streamed[1], json.loads(body))
            elif put := re.fullmatch(r"/put/artifacts/([^/]+)/(.+)", self.path):
                self.server.artifacts[put[1]]["files"].add(put[2])
        said = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_PUT = do_GET = do_POST


@contextmanager
def serving() -> Iterator[Server]:
    """The server while it runs."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
