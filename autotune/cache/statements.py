"""The statements that add rows, for SQLite and PostgreSQL alike, and the values they take."""

from __future__ import annotations

from typing import Any

from ..records import PREDICTED, Key, Sample
from .codec import configuration_digest, decision_body, key_body, sample_body, seal
from .decision import Decision

ADD_KEY = """INSERT INTO tuned_keys (digest, program, target, body) VALUES (:digest, :program, :target, :body)
    ON CONFLICT (digest) DO UPDATE SET program = excluded.program, target = excluded.target, body = excluded.body
    WHERE tuned_keys.body <> excluded.body"""
ADD_SAMPLE = """INSERT INTO tuned_samples (seal, digest, configuration, state, at, body)
    VALUES (:seal, :digest, :configuration, :state, :at, :body) ON CONFLICT (seal) DO NOTHING"""
# What was measured stays where something was only predicted.
ADD_DECISION = f"""INSERT INTO tuned_decisions (digest, family, kind, at, seal, body)
    VALUES (:digest, :family, :kind, :at, :seal, :body)
    ON CONFLICT (digest) DO UPDATE SET family = excluded.family, kind = excluded.kind, at = excluded.at,
    seal = excluded.seal, body = excluded.body
    WHERE excluded.kind <> '{PREDICTED}' OR tuned_decisions.kind = '{PREDICTED}'"""


def key_values(key: Key) -> dict[str, Any]:
    return {"digest": key.digest, "program": key.program, "target": key.place.target, "body": key_body(key)}


def sample_values(digest: str, sample: Sample) -> dict[str, Any]:
    body = sample_body(sample)
    found = {"digest": digest, "configuration": configuration_digest(sample.configuration), "state": sample.state}
    return found | {"seal": seal(digest, body), "at": float(sample.at), "body": body}


def decision_values(decision: Decision) -> dict[str, Any]:
    body, digest = decision_body(decision), decision.key.digest
    found = {"digest": digest, "family": decision.key.family, "kind": decision.kind, "at": float(decision.at)}
    return found | {"seal": seal(digest, body), "body": body}
