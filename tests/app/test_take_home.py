# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Exports, and whose files are whose."""

import json
import zipfile
from pathlib import Path

import pytest

from dreambooth_jax.app.people import COOKIE, new_token, owner_of
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.runs import share
from dreambooth_jax.app.requests.take_home import FORMS, export, packed
from dreambooth_jax.cli.export import EXPORT
from dreambooth_jax.cli.parsing import read_call
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import AppOptions
from tests.app.places import end, put_run

ADA, BOB = new_token(), new_token()
KINDS = ("lora", "full", "oft", "textual_inversion")


@pytest.fixture
def desk(tmp_path):
    return Desk(Queue(tmp_path / "jobs", most=9), tmp_path / "people", ("quickstart",))


@pytest.mark.parametrize(("form", "kind"), [*(("LoRA", kind) for kind in KINDS), *((form, "oft") for form in FORMS)])
def test_what_is_asked_for_is_a_command_line(form, kind, desk):
    run = put_run(desk, "ada", f"adapter.kind={kind}", *(["prior.weight=0"] if "inversion" in kind else []))
    job = export(desk, "ada", of=0, form=form, dtype="float16")
    options = read_call(EXPORT, job.words[1:]).settings
    assert options.source == run.folder
    assert Path(options.out).is_relative_to(desk.place("ada"))
    assert Path(options.out).name == f"sks-red-dog{FORMS[form].ending}"
    assert (options.rank is None) == (form != "LoRA" or kind in ("lora", "textual_inversion"))


@pytest.mark.parametrize("changed", [{"of": 99}, {"of": -1}, {"form": "../x"}, {"dtype": "int8"}])
def test_exports_that_are_refused(changed, desk):
    put_run(desk, "ada")
    with pytest.raises(InputError):
        export(desk, "ada", **{"of": 0, "form": "LoRA", "dtype": "float16"} | changed)


def test_a_stranger_exports_nothing_and_nothing_is_exported_before_it_is_saved(desk):
    run = put_run(desk, "ada")
    for shared in (False, True):
        share(desk, "ada", run.number, shared=shared)
        with pytest.raises(InputError, match="no training"):
            export(desk, "bob", of=run.number, form="LoRA", dtype="float16")
    (Path(run.folder) / "checkpoints" / "4" / "_CHECKPOINT_METADATA").unlink()
    with pytest.raises(InputError, match="nothing was saved"):
        export(desk, "ada", of=run.number, form="LoRA", dtype="float16")


def test_a_folder_is_zipped_once_and_old_exports_make_room(desk, monkeypatch):
    monkeypatch.setattr("dreambooth_jax.app.requests.take_home.MOST_KEPT", 1)
    put_run(desk, "ada")
    found = []
    for _ in range(2):
        job = export(desk, "ada", of=0, form="diffusers folder", dtype="float16")
        assert packed(desk, job) is None
        model = Path(job.words[2].removeprefix("out="))
        (model / "unet").mkdir(parents=True)
        (model / "unet" / "a.safetensors").write_bytes(b"weights")
        found.append(packed(desk, end(desk, job)))
        assert not model.exists()  # nothing is kept twice
        assert packed(desk, end(desk, job)) == found[-1]
    assert [file.exists() for file in found] == [False, True]
    with zipfile.ZipFile(found[-1]) as archive:
        assert archive.read("sks-red-dog/unet/a.safetensors") == b"weights"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(client, desk) of a page."""
    pytest.importorskip("gradio")
    from starlette.testclient import TestClient

    from dreambooth_jax.app.server import app_of

    folder = tmp_path_factory.mktemp("served")
    queue = Queue(folder / "jobs", most=9)
    app = app_of(AppOptions(folder=str(folder)), queue)
    with TestClient(app, base_url="http://localhost:7860") as client:
        yield client, Desk(queue, folder / "people", ("quickstart",))


def ask(client, token, name, *data):
    """(status, outputs) of an event, as a browser asks for it."""
    cookies = {"cookie": f"{COOKIE}={token}"}
    begun = client.post(f"/gradio_api/call/{name}", json={"data": data}, headers=cookies)
    if begun.status_code != 200:
        return begun.status_code, begun.json()
    stream = client.get(f"/gradio_api/call/{name}/{begun.json()['event_id']}", headers=cookies)
    (told,) = [line.removeprefix("data: ") for line in stream.text.splitlines() if line.startswith("data: ")][-1:]
    return 200, json.loads(told)


def fetch(client, token, place):
    return client.get(f"/gradio_api/file={place}", headers={"cookie": f"{COOKIE}={token}"} if token else {})


def as_file(place):
    return {"path": str(place), "meta": {"_type": "gradio.FileData"}}


def test_an_export_is_for_its_owner_alone_by_whatever_path(served):
    client, desk = served
    client.cookies.clear()
    owner = owner_of({COOKIE: ADA}, None)
    put_run(desk, owner)
    job = export(desk, owner, of=0, form="LoRA", dtype="float16")
    out = Path(job.words[2].removeprefix("out="))
    out.parent.mkdir(parents=True)
    out.write_bytes(b"weights")
    end(desk, job)
    _, (file,) = ask(client, ADA, "download")
    assert fetch(client, ADA, file["path"]).content == b"weights"
    cache = desk.cache
    for place in (file["path"], f"{cache}/x/../{Path(file['path']).relative_to(cache)}", f"{cache}//x/.././{out.name}"):
        for stranger in (BOB, ""):
            assert fetch(client, stranger, place).status_code == 403
    assert ask(client, BOB, "download") == (200, [None])


def test_an_upload_is_for_its_owner_alone_to_fetch_and_to_train_on(served):
    client, _ = served
    client.cookies.clear()
    photo = Path(__file__).parents[2] / "dreambooth_jax" / "embedded" / "subject" / "subject_1.png"
    sent = client.post("/gradio_api/upload", files={"files": photo.read_bytes()}, headers={"cookie": f"{COOKIE}={ADA}"})
    (place,) = sent.json()
    assert fetch(client, ADA, place).content == photo.read_bytes()
    for stranger in (BOB, ""):
        assert fetch(client, stranger, place).status_code == 403
    for where in ("call/train", "queue/join", "run/train", "api/train"):
        told = {"data": [[as_file(place)]], "fn_index": 0, "session_hash": "x"}
        refused = client.post(f"/gradio_api/{where}", json=told, headers={"cookie": f"{COOKIE}={BOB}"})
        assert refused.status_code == 403


@pytest.mark.parametrize("place", ["/etc/passwd", "http://127.0.0.1/x", "{cache}", "{cache}/../jobs/000001.json", ""])
def test_no_place_of_the_server_and_no_address_is_worked_with(served, place):
    client, desk = served
    told = as_file(place.format(cache=desk.cache))
    assert ask(client, BOB, "train", [told], "quickstart", "dog", "sks", 1)[0] == 403
    assert fetch(client, BOB, told["path"]).status_code == 403


def test_what_somebody_writes_tells_him_of_nothing(served):
    """A path that comes back in a message is no file that was given."""
    client, desk = served
    file = desk.cache / ("a" * 64) / "x.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")
    for text in (str(file), f'"path": "{file}"', f'\\"path": "{file}"'):
        ask(client, BOB, "sample", text, 0, text, text, 9999, 3, 0, 1)
        ask(client, BOB, "train", [], text, text, text, 1)
    assert fetch(client, BOB, file).status_code == 403


def test_a_request_has_a_bound(served):
    client, _ = served
    assert client.post("/gradio_api/queue/join", content=b" " * 8_000_001).status_code == 413
