"""Encoders and decoders of the API's types, made once."""

from urllib.parse import quote

import msgspec

from web import schema
from web.usage_schema import UsageAnswer

encode = msgspec.json.Encoder().encode
job_of = msgspec.json.Decoder(schema.Job).decode
jobs_of = msgspec.json.Decoder(schema.JobsAnswer).decode
tasks_of = msgspec.json.Decoder(schema.TasksAnswer).decode
results_of = msgspec.json.Decoder(schema.ResultsAnswer).decode
done_of = msgspec.json.Decoder(schema.Done).decode
workers_of = msgspec.json.Decoder(schema.WorkersAnswer).decode
usage_of = msgspec.json.Decoder(UsageAnswer).decode
worker_of = msgspec.json.Decoder(schema.WorkerView).decode
enrol_of = msgspec.json.Decoder(schema.EnrolAnswer).decode
status_of = msgspec.json.Decoder(schema.Status).decode
shown_of = msgspec.json.Decoder(list[schema.Shown]).decode
expired_of = msgspec.json.Decoder(schema.Expired).decode
emitted_of = msgspec.json.Decoder(list[schema.Emitted]).decode


def name(text: str) -> str:
    """A name as one segment of a path."""
    return quote(text, safe="") or "-"


def flag(on: bool) -> str:
    """A truth value in a query."""
    return "true" if on else "false"
