# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Who is let in, and under which name the page is asked for."""

import pytest

from dreambooth_jax.app.login import VARIABLE, login_of, names_of
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import AppOptions


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "secret.txt"
    file.write_text("pass word\nwhat it is for\n")
    return str(file)


def login(environment=(), **told):
    return login_of(AppOptions(**told), dict(environment))


@pytest.mark.parametrize(
    "told", [{"host": "0.0.0.0"}, {"host": "example.org"}, {"user": "me"}, {"host": "::", "password": "x"}]
)
def test_others_have_to_log_in(told):
    with pytest.raises(InputError):
        login(**told)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_who_is_here_need_not(host):
    assert login(host=host) is login(host=host, environment={VARIABLE: "x"}) is None


def test_a_password_need_not_stand_on_the_command_line(secret, caplog):
    others = {"host": "0.0.0.0", "user": "me"}
    assert login(**others, password_file=secret) == login(**others, environment={VARIABLE: "pass word"})
    assert login(**others, password_file=secret).password == "pass word"
    assert not caplog.records
    assert login(**others, password="x", environment={VARIABLE: "y"}) == ("me", "x")
    assert "password_file" in caplog.text


def test_a_password_that_is_none(tmp_path, secret):
    (tmp_path / "empty.txt").write_text("\n")
    for told in ({"password_file": str(tmp_path / "empty.txt")}, {"password_file": str(tmp_path / "none.txt")}):
        with pytest.raises(InputError):
            login(user="me", **told)
    with pytest.raises(InputError, match="twice"):
        login(user="me", password="x", password_file=secret)
    with pytest.raises(InputError):
        login(user="me", environment={VARIABLE: ""})


def test_names_that_a_page_of_this_machine_has():
    assert set(names_of("127.0.0.1")) == set(names_of("localhost"))
    assert "localhost" in names_of("::1")
    assert names_of("0.0.0.0") == ["*"]
