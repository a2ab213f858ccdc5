"""What is typed becomes a job."""

import pytest

from backend.cli.arguments import parser, to_job
from backend.errors import InputError


def job(*typed: str):
    return to_job(parser().parse_args(["generate", "a red mug", *typed]))


def test_sizes_are_settings_under_a_short_name() -> None:
    assert job("--faces", "1500", "--texture-size", "512").overrides == {
        "delivery.max_faces": 1500,
        "delivery.texture_size": 512,
    }
    assert job("--set", "delivery.max_faces=null").overrides == {"delivery.max_faces": None}
    assert job().overrides == {}


@pytest.mark.parametrize(
    ("option", "setting"), [("--faces", "delivery.max_faces"), ("--texture-size", "delivery.texture_size")]
)
def test_a_size_that_is_given_twice_is_refused(option: str, setting: str) -> None:
    with pytest.raises(InputError, match=f"{option} and --set {setting}"):
        job(option, "512", "--set", f"{setting}=256")
