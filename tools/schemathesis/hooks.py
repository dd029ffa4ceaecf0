"""Extends the OpenAPI tests: authentication, the format of names, and which errors mean malformed input."""

import os
import unicodedata

import requests
import schemathesis
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode

URL = os.environ["DAEMON_URL"]
# Errors for malformed input, by the table of operations; any other error means that a value is not usable.
OF_FORM = {"request.invalid_input", "request.invalid_body", "request.too_many_values", "request.body_too_large"}

hidden = ("Cc", "Cf", "Zl", "Zp", "Cs")
visible = st.characters(exclude_categories=hidden).filter(lambda letter: unicodedata.category(letter) != "Cn")
schemathesis.openapi.format("name", st.text(visible))


def is_json_of_ours(value):
    """No number beyond 64 bits (decision "Integers"); schemas cannot exclude them in undeclared properties."""
    if isinstance(value, dict):
        return all(map(is_json_of_ours, value.values()))
    if isinstance(value, list):
        return all(map(is_json_of_ours, value))
    return not isinstance(value, (int, float)) or isinstance(value, bool) or -(2**63) <= value < 2**63


@schemathesis.hook
def filter_body(context, body):
    return is_json_of_ours(body)


class Elsewhere(HTTPAdapter):
    """A second client address, so that generated requests with wrong passwords do not throttle its sign-ins."""

    def init_poolmanager(self, *arguments, **named):
        super().init_poolmanager(*arguments, source_address=("127.0.0.2", 0), **named)


elsewhere = requests.Session()
elsewhere.mount("http://", Elsewhere())


def sign_in():
    body = {"slug": os.environ["SLUG"], "password": os.environ["PASSWORD"], "device": "schemathesis"}
    answer = elsewhere.post(f"{URL}/user-svc/login", json=body, timeout=60)
    return answer.json()["token"]["token"]


# Some operations end sessions, so each request gets a valid token.
@schemathesis.auth(refresh_interval=None)
class Token:
    token = None

    def get(self, case, context):
        headers = {"Authorization": f"Bearer {Token.token}"}
        known = Token.token and elsewhere.post(f"{URL}/user-svc/user/by-token", headers=headers, timeout=60).ok
        Token.token = Token.token if known else sign_in()
        return Token.token

    def set(self, case, data, context):
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {data}"}


@schemathesis.check
def the_form_of_what_is_described_is_accepted(ctx, response, case):
    meta = case.meta
    if meta is None or meta.generation.mode is not GenerationMode.POSITIVE or response.status_code != 400:
        return
    code = response.json()["code"]
    assert code not in OF_FORM, f"{code}: {response.text}"
