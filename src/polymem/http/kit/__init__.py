"""The kit every dialect is built with: describe the dialect, add routes, and the rest is the same for all."""

from polymem.http.kit.dialect import MIB, Dialect, DialectContext, ErrorRule
from polymem.http.kit.faults import FAULT_CODES, EdgeCode, EdgeError, Fault, FaultCode, Violation
from polymem.http.kit.multipart import Form, UploadedFile, received_form
from polymem.http.kit.requests import KitRequest, count_query, count_stranger
from polymem.http.kit.responses import json_body, json_response
from polymem.http.kit.stack import dialect_app
from polymem.http.kit.strict_json import parse_json, text_fault

__all__ = [
    "FAULT_CODES",
    "MIB",
    "Dialect",
    "DialectContext",
    "EdgeCode",
    "EdgeError",
    "ErrorRule",
    "Fault",
    "FaultCode",
    "Form",
    "KitRequest",
    "UploadedFile",
    "Violation",
    "count_query",
    "count_stranger",
    "dialect_app",
    "json_body",
    "json_response",
    "parse_json",
    "received_form",
    "text_fault",
]
